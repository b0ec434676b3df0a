package consensus_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/consensus/consensustest"
)

// grantsStaleLogAfterTornVote asks one node for its vote as a story would: it voted
// for "stale" long ago, crashes between the two writes of its vote for "fresh" in term
// 5, and is then asked in term 5 by "stale", whose log is older than its own.
// The crash comes before write number crash of the process that votes.
func grantsStaleLogAfterTornVote(t *testing.T, wrap func(raft.StableStore) raft.StableStore, crash int) bool {
	t.Helper()
	disk := consensustest.NewMemDisk(1)
	servers := raft.Configuration{Servers: []raft.Server{
		{ID: "me", Address: "me"}, {ID: "fresh", Address: "fresh"}, {ID: "stale", Address: "stale"},
	}}
	conf := raft.DefaultConfig()
	conf.LocalID = "me"
	conf.Logger = hclog.NewNullLogger()
	conf.HeartbeatTimeout, conf.ElectionTimeout = time.Hour, time.Hour // never campaigns itself

	stores := disk.Disk()
	if err := raft.BootstrapCluster(conf, stores.Log, wrap(stores.Stable), stores.Snapshots, nil, servers); err != nil {
		t.Fatal(err)
	}
	// The node's log goes further than the one of "stale".
	if err := stores.Log.StoreLogs([]*raft.Log{{Index: 2, Term: 2, Type: raft.LogNoop}, {Index: 3, Term: 2, Type: raft.LogNoop}}); err != nil {
		t.Fatal(err)
	}
	ask := func(disk *consensustest.MemDisk, candidate string, term, lastIndex, lastTerm uint64) bool {
		t.Helper()
		d := disk.Disk()
		_, trans := raft.NewInmemTransport("me")
		r, err := raft.NewRaft(conf, consensustest.NewLedger(), d.Log, wrap(d.Stable), d.Snapshots, trans)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := r.Shutdown().Error(); err != nil {
				t.Error(err)
			}
		}()
		_, client := raft.NewInmemTransport(raft.ServerAddress(candidate))
		defer client.Close()
		client.Connect("me", trans)
		req := &raft.RequestVoteRequest{
			RPCHeader:   raft.RPCHeader{ProtocolVersion: 3, ID: []byte(candidate), Addr: []byte(candidate)},
			Term:        term,
			LastLogTerm: lastTerm, LastLogIndex: lastIndex,
		}
		var resp raft.RequestVoteResponse
		if err := client.RequestVote("me", "me", req, &resp); err != nil {
			t.Fatal(err)
		}
		return resp.Granted
	}
	if !ask(disk, "stale", 3, 3, 2) {
		t.Fatal("the vote of term 3 was refused to a log that is as long as the node's")
	}
	// Crash after the first write of the next vote, before which the new term is written
	// (and by raft alone also the old one, at the start): what the disk holds then is kept.
	var image *consensustest.MemDisk
	writes := 0
	disk.OnWrite(func(int, string) {
		if writes++; writes == crash {
			image = disk.Image(false)
		}
	})
	if !ask(disk, "fresh", 5, 3, 2) {
		t.Fatal("the vote of term 5 was refused")
	}
	if image == nil {
		t.Fatal("the vote was not written")
	}
	return ask(image, "stale", 5, 1, 1)
}

func TestTornVoteDoesNotElectAStaleLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if grantsStaleLogAfterTornVote(t, consensus.NewVoteStoreForTest, 2) {
			t.Error("a stale log got the vote after a crash between the two writes of a vote")
		}
	})
}

// TestTornVoteElectsAStaleLogWithoutTheWrapper shows that the test above has teeth.
func TestTornVoteElectsAStaleLogWithoutTheWrapper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if !grantsStaleLogAfterTornVote(t, func(s raft.StableStore) raft.StableStore { return s }, 3) {
			t.Error("raft's own two writes are safe by now: the wrapper can go")
		}
	})
}

func TestVoteStoreKeepsRaftsWords(t *testing.T) {
	disk := consensustest.NewMemDisk(1)
	s := consensus.NewVoteStoreForTest(disk.Disk().Stable)
	if _, err := s.GetUint64([]byte("LastVoteTerm")); err == nil || err.Error() != "not found" {
		t.Errorf("term of no vote = %v, want the text %q that raft compares with", err, "not found")
	}
	if _, err := s.Get([]byte("LastVoteCand")); err == nil || err.Error() != "not found" {
		t.Errorf("candidate of no vote = %v, want the text %q", err, "not found")
	}
	if err := s.Set([]byte("LastVoteCand"), []byte("a")); err == nil {
		t.Error("a candidate without a term was accepted")
	}
	if err := errors.Join(s.SetUint64([]byte("LastVoteTerm"), 7), s.Set([]byte("LastVoteCand"), []byte("b"))); err != nil {
		t.Fatal(err)
	}
	// A term alone changes nothing.
	if err := s.SetUint64([]byte("LastVoteTerm"), 8); err != nil {
		t.Fatal(err)
	}
	again := consensus.NewVoteStoreForTest(disk.Disk().Stable)
	for _, s := range []raft.StableStore{s, again} {
		term, err := s.GetUint64([]byte("LastVoteTerm"))
		candidate, err2 := s.Get([]byte("LastVoteCand"))
		if term != 7 || string(candidate) != "b" || err != nil || err2 != nil {
			t.Errorf("vote = %d for %q (%v, %v), want 7 for b", term, candidate, err, err2)
		}
	}
}
