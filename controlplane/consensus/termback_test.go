package consensus_test

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/consensus/consensustest"
)

// slowStable is a stable store one of whose writes stands still for a while.
type slowStable struct {
	raft.StableStore
	turn chan struct{} // one write at a time

	mu    sync.Mutex
	began chan struct{} // when set: the next write closes it, and goes on when goOn is closed
	goOn  chan struct{}
}

func (s *slowStable) hold() (began, goOn chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began, s.goOn = make(chan struct{}), make(chan struct{})
	return s.began, s.goOn
}

func (s *slowStable) write(f func() error) error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.mu.Lock()
	began, goOn := s.began, s.goOn
	s.began = nil
	s.mu.Unlock()
	if began != nil {
		close(began)
		<-goOn
	}
	return f()
}

func (s *slowStable) Set(key, val []byte) error {
	return s.write(func() error { return s.StableStore.Set(key, val) })
}

func (s *slowStable) SetUint64(key []byte, val uint64) error {
	return s.write(func() error { return s.StableStore.SetUint64(key, val) })
}

// heartbeatTransport hands out what raft answers heartbeats with.
type heartbeatTransport struct {
	*raft.InmemTransport
	heartbeat func(raft.RPC)
}

func (t *heartbeatTransport) SetHeartbeatHandler(h func(raft.RPC)) { t.heartbeat = h }

// The terms of the leader whose heartbeat comes late, and of the election.
const oldTerm, newTerm = 2, 3

// termAfterLateHeartbeat has a node write the term in which it stands for election,
// meanwhile delivers a heartbeat of the leader before, and answers in which term the node
// is after it.
func termAfterLateHeartbeat(t *testing.T, wrap func(raft.StableStore) raft.StableStore) uint64 {
	t.Helper()
	disk := consensustest.NewMemDisk(1).Disk()
	slow := &slowStable{StableStore: disk.Stable, turn: make(chan struct{}, 1)}
	stable := wrap(slow)
	conf := raft.DefaultConfig()
	conf.LocalID = "me"
	conf.Logger = hclog.NewNullLogger()
	servers := raft.Configuration{Servers: []raft.Server{{ID: "me", Address: "me"}, {ID: "b", Address: "b"}, {ID: "c", Address: "c"}}}
	if err := raft.BootstrapCluster(conf, disk.Log, stable, disk.Snapshots, nil, servers); err != nil {
		t.Fatal(err)
	}
	_, inmem := raft.NewInmemTransport("me")
	trans := &heartbeatTransport{InmemTransport: inmem}
	stop := make(chan struct{})
	var peers sync.WaitGroup
	for _, name := range []raft.ServerAddress{"b", "c"} {
		_, peer := raft.NewInmemTransport(name)
		inmem.Connect(name, peer)
		peers.Go(func() {
			for {
				select {
				case rpc := <-peer.Consumer():
					switch req := rpc.Command.(type) {
					case *raft.RequestPreVoteRequest:
						rpc.Respond(&raft.RequestPreVoteResponse{RPCHeader: raft.RPCHeader{ProtocolVersion: 3}, Term: req.Term, Granted: true}, nil)
					case *raft.RequestVoteRequest:
						rpc.Respond(&raft.RequestVoteResponse{RPCHeader: raft.RPCHeader{ProtocolVersion: 3}, Term: req.Term, Granted: true}, nil)
					default:
						rpc.Respond(nil, errors.New("not today"))
					}
				case <-stop:
					return
				}
			}
		})
	}
	r, err := raft.NewRaft(conf, consensustest.NewLedger(), disk.Log, stable, disk.Snapshots, trans)
	if err != nil {
		t.Fatal(err)
	}
	heartbeat := func() {
		trans.heartbeat(raft.RPC{
			Command:  &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte("b"), Addr: []byte("b")}, Term: oldTerm},
			RespChan: make(chan raft.RPCResponse, 1),
		})
	}
	heartbeat()
	if term := r.CurrentTerm(); term != oldTerm {
		t.Fatalf("the node follows in term %d, want %d", term, oldTerm)
	}
	began, goOn := slow.hold()
	<-began // b was not heard for a while, and the others have nothing against an election
	var late sync.WaitGroup
	late.Go(heartbeat)
	synctest.Wait()
	close(goOn)
	synctest.Wait()
	term := r.CurrentTerm()

	f := r.Shutdown()
	close(stop)
	t.Cleanup(func() {
		late.Wait()
		peers.Wait()
		if err := f.Error(); err != nil {
			t.Error(err)
		}
	})
	return term
}

func TestHeartbeatOfTheOldLeaderDoesNotTakeTheTermBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var given error
		var release func()
		term := termAfterLateHeartbeat(t, func(s raft.StableStore) (wrapped raft.StableStore) {
			wrapped, release = consensus.NewFatalVoteStoreForTest(s, func(err error) { given = err })
			return wrapped
		})
		if term < newTerm {
			t.Errorf("the node stood for election in term %d, and is in term %d after a late heartbeat", newTerm, term)
		}
		if given == nil {
			t.Error("the node was not given up")
		}
		release()
		time.Sleep(time.Minute) // raft's goroutines end
	})
}

// TestHeartbeatTakesTheTermBackWithoutTheWrapper shows that the test above has teeth.
func TestHeartbeatTakesTheTermBackWithoutTheWrapper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if term := termAfterLateHeartbeat(t, func(s raft.StableStore) raft.StableStore { return s }); term >= newTerm {
			t.Errorf("the node is still in term %d: raft keeps its term by now, and the store need not", term)
		}
		time.Sleep(time.Minute)
	})
}
