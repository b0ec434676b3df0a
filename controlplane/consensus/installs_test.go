package consensus_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/consensus/consensustest"
)

// leaderOf is a made-up leader that talks to node "b".
type leaderOf struct {
	t     *testing.T
	trans *consensustest.Transport
}

func (l leaderOf) header() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: 3, ID: []byte("a"), Addr: []byte("a")}
}

func (l leaderOf) append(term, prev, prevTerm, commit uint64, logs ...*raft.Log) *raft.AppendEntriesResponse {
	l.t.Helper()
	var resp raft.AppendEntriesResponse
	err := l.trans.AppendEntries("b", "b", &raft.AppendEntriesRequest{
		RPCHeader: l.header(), Term: term, PrevLogEntry: prev, PrevLogTerm: prevTerm, Entries: logs, LeaderCommitIndex: commit,
	}, &resp)
	if err != nil {
		l.t.Fatal(err)
	}
	return &resp
}

func (l leaderOf) install(term, index, indexTerm uint64) (*raft.InstallSnapshotResponse, error) {
	l.t.Helper()
	data := fmt.Sprintf(`{"Index":%d}`, index)
	var resp raft.InstallSnapshotResponse
	err := l.trans.InstallSnapshot("b", "b", &raft.InstallSnapshotRequest{
		RPCHeader: l.header(), SnapshotVersion: 1, Term: term, LastLogIndex: index, LastLogTerm: indexTerm,
		Configuration: raft.EncodeConfiguration(threeServers), ConfigurationIndex: 1, Size: int64(len(data)),
	}, &resp, strings.NewReader(data))
	return &resp, err
}

var threeServers = raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a"}, {ID: "b", Address: "b"}, {ID: "c", Address: "c"}}}

func entries(t *testing.T, from, to, term uint64) (logs []*raft.Log) {
	for i := from; i <= to; i++ {
		logs = append(logs, entry(t, i, term))
	}
	return logs
}

// follower is a host "b" of three whose disk is bootstrapped.
func follower(t *testing.T, net *consensustest.Network, disk *consensustest.MemDisk, fatal func(error)) (*consensus.Host, *consensustest.Ledger) {
	t.Helper()
	ledger := consensustest.NewLedger()
	h, err := consensus.Open(consensus.Options{
		NodeID: "b", Disk: disk.Disk(), Transport: net.Join("b"), Machine: ledger, Peers: noPeers{},
		Profile: consensus.Profile{Heartbeat: time.Hour, Election: time.Hour, Lease: time.Hour, Commit: time.Second},
		Fatal:   fatal,
	})
	if err != nil {
		t.Fatal(err)
	}
	return h, ledger
}

func bootstrapped(t *testing.T) *consensustest.MemDisk {
	t.Helper()
	disk := consensustest.NewMemDisk(1)
	g, err := consensus.Guard(disk.Disk(), func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	conf := raft.DefaultConfig()
	conf.LocalID, conf.Logger = "b", hclog.NewNullLogger()
	if err := raft.BootstrapCluster(conf, g.Log, g.Stable, g.Snapshots, nil, threeServers); err != nil {
		t.Fatal(err)
	}
	return disk
}

func TestLateSnapshotKeepsTheLogBehindIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := consensustest.NewNetwork(1, nil)
		a := leaderOf{t, net.Join("a")}
		disk := bootstrapped(t)
		h, ledger := follower(t, net, disk, func(err error) { t.Error(err) })
		defer h.Close()
		if r := a.append(2, 1, 1, 12, entries(t, 2, 20, 2)...); !r.Success {
			t.Fatalf("append: %+v", r)
		}
		resp, err := a.install(2, 10, 2) // was on its way for long
		if err != nil || !resp.Success {
			t.Fatalf("late snapshot: %+v, %v, want that all is well", resp, err)
		}
		if last, _ := disk.Disk().Log.LastIndex(); last != 20 {
			t.Errorf("the log ends at %d, want 20: those entries were acknowledged", last)
		}
		if r := a.append(2, 20, 2, 20); !r.Success {
			t.Errorf("append after it: %+v", r)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := ledger.WaitPublished(ctx, 20); err != nil {
			t.Error(err)
		}
	})
}

// TestLeaderThatLostAnswersIsUnderstoodByACompactedLog has a leader begin where the
// follower's log is compacted away.
func TestLeaderThatLostAnswersIsUnderstoodByACompactedLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := consensustest.NewNetwork(1, nil)
		a := leaderOf{t, net.Join("a")}
		disk := bootstrapped(t)
		h, ledger := follower(t, net, disk, func(err error) { t.Error(err) })
		defer h.Close()
		if r := a.append(2, 1, 1, 30, entries(t, 2, 30, 2)...); !r.Success {
			t.Fatalf("append: %+v", r)
		}
		time.Sleep(time.Minute)
		if err := h.Snapshot(t.Context()); err != nil {
			t.Fatal(err)
		}
		// Entries behind the snapshot that the leader has not committed.
		if r := a.append(2, 30, 2, 30, entries(t, 31, 33, 2)...); !r.Success {
			t.Fatalf("append: %+v", r)
		}
		if err := disk.Disk().Log.DeleteRange(1, 29); err != nil {
			t.Fatal(err)
		}
		for prev := uint64(0); prev < 33; prev++ {
			var r *raft.AppendEntriesResponse
			if prev < 2 {
				r = a.append(2, prev, prev, 31, entries(t, 2, 32, 2)...)
			} else {
				r = a.append(2, prev, 2, 31, entries(t, prev+1, 32, 2)...)
			}
			if !r.Success {
				t.Errorf("append behind entry %d is refused", prev)
			}
			if r := a.append(2, max(prev, 1), 2-uint64(b2i(prev < 2)), 31); !r.Success {
				t.Errorf("empty append behind entry %d is refused", prev)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := ledger.WaitPublished(ctx, 31); err != nil {
			t.Error(err)
		}
		if last, _ := disk.Disk().Log.LastIndex(); last != 33 {
			t.Errorf("the log ends at %d, want 33", last)
		}
	})
}

// TestLaterLeaderIsUnderstoodBehindAnInstalledSnapshot has a leader begin right behind a snapshot
// that another one has sent, where the node holds entries that were never committed.
func TestLaterLeaderIsUnderstoodBehindAnInstalledSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := consensustest.NewNetwork(1, nil)
		a := leaderOf{t, net.Join("a")}
		disk := bootstrapped(t)
		h, _ := follower(t, net, disk, func(err error) { t.Error(err) })
		defer h.Close()
		if _, err := a.install(2, 10, 2); err != nil {
			t.Fatal(err)
		}
		if r := a.append(2, 10, 2, 10, entries(t, 11, 13, 2)...); !r.Success {
			t.Fatalf("append: %+v", r)
		}
		if r := a.append(3, 10, 1, 10, entries(t, 11, 12, 3)...); r.Success {
			t.Error("an append behind another entry than the snapshot's last was taken")
		}
		if r := a.append(3, 10, 2, 10, entries(t, 11, 12, 3)...); !r.Success {
			t.Errorf("append behind the snapshot: %+v", r)
		}
		var l raft.Log
		if err := disk.Disk().Log.GetLog(12, &l); err != nil || l.Term != 3 {
			t.Errorf("entry 12 is of term %d (%v), want 3", l.Term, err)
		}
		if last, _ := disk.Disk().Log.LastIndex(); last != 12 {
			t.Errorf("the log ends at %d, want 12", last)
		}
	})
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestRaftForgetsTheLogBehindALateSnapshot shows that the test above has teeth.
func TestRaftForgetsTheLogBehindALateSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := consensustest.NewNetwork(1, nil)
		a := leaderOf{t, net.Join("a")}
		disk := bootstrapped(t)
		conf := raft.DefaultConfig()
		conf.LocalID, conf.Logger = "b", hclog.NewNullLogger()
		conf.HeartbeatTimeout, conf.ElectionTimeout = time.Hour, time.Hour
		d := disk.Disk()
		r, err := raft.NewRaft(conf, consensustest.NewLedger(), d.Log, d.Stable, d.Snapshots, net.Join("b"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Shutdown().Error() }()
		a.append(2, 1, 1, 12, entries(t, 2, 20, 2)...)
		if _, err := a.install(2, 10, 2); err != nil {
			t.Fatal(err)
		}
		last, _ := d.Log.LastIndex()
		if last == 20 {
			t.Errorf("raft keeps the log by now (it says %d): installs can go", r.LastIndex())
		}
		t.Logf("raft says that its log ends at %d, it ends at %d", r.LastIndex(), last)
	})
}

func TestSnapshotOverADivergingLogStartsTheNodeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := consensustest.NewNetwork(1, nil)
		a := leaderOf{t, net.Join("a")}
		disk := bootstrapped(t)
		gaveUp := make(chan error, 1)
		h, _ := follower(t, net, disk, func(err error) { gaveUp <- err })
		a.append(2, 1, 1, 5, entries(t, 2, 20, 2)...) // 6 and later never commit
		if resp, err := a.install(3, 15, 3); err == nil {
			t.Fatalf("snapshot over a diverging log: %+v, want a refusal", resp)
		}
		if err := <-gaveUp; !strings.Contains(err.Error(), "raft#697") {
			t.Errorf("fatal error %q, want the diverging log", err)
		}
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		if last, _ := disk.Disk().Log.LastIndex(); last != 14 {
			t.Errorf("the log ends at %d, want 14", last)
		}
		h, ledger := follower(t, net, disk, func(err error) { t.Error(err) })
		defer h.Close()
		if resp, err := a.install(3, 15, 3); err != nil || !resp.Success {
			t.Fatalf("snapshot after the restart: %+v, %v", resp, err)
		}
		if r := a.append(3, 15, 3, 17, entries(t, 16, 17, 3)...); !r.Success {
			t.Errorf("append after the snapshot: %+v", r)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := ledger.WaitPublished(ctx, 17); err != nil {
			t.Error(err)
		}
		var l raft.Log
		if err := disk.Disk().Log.GetLog(17, &l); err != nil || !bytes.Equal(l.Data, entry(t, 17, 3).Data) {
			t.Errorf("entry 17: %v", err)
		}
	})
}
