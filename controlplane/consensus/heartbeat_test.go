package consensus

import (
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// slowStore is raft's store in memory, one of whose writes may stand still for a while.
type slowStore struct {
	*raft.InmemStore
	turn chan struct{} // one write at a time of what is not the log

	mu    sync.Mutex    // guards what follows
	began chan struct{} // when set: the next write closes it, and goes on when goOn is closed
	goOn  chan struct{}
}

// hold has the next write stand still.
func (s *slowStore) hold() (began, goOn chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began, s.goOn = make(chan struct{}), make(chan struct{})
	return s.began, s.goOn
}

func (s *slowStore) stand() {
	s.mu.Lock()
	began, goOn := s.began, s.goOn
	s.began = nil
	s.mu.Unlock()
	if began != nil {
		close(began)
		<-goOn
	}
}

func (s *slowStore) Set(key, val []byte) error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.stand()
	return s.InmemStore.Set(key, val)
}

func (s *slowStore) SetUint64(key []byte, val uint64) error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.stand()
	return s.InmemStore.SetUint64(key, val)
}

func (s *slowStore) StoreLogs(logs []*raft.Log) error {
	s.stand()
	return s.InmemStore.StoreLogs(logs)
}

// beatTransport hands out what raft answers heartbeats with.
type beatTransport struct {
	*raft.InmemTransport
	answer func(raft.RPC)
}

func (t *beatTransport) SetHeartbeatHandler(answer func(raft.RPC)) { t.answer = answer }

// beatWorld is raft on one node with two peers that vote for everybody and take no
// entries.
type beatWorld struct {
	t     *testing.T
	raft  *raft.Raft
	store *slowStore
	trans *beatTransport
	stop  []func()
}

type nothing struct{}

func (nothing) Apply(*raft.Log) any                 { return nil }
func (nothing) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("nothing to keep") }
func (nothing) Restore(io.ReadCloser) error         { return errors.New("nothing to restore") }

// newBeatWorld starts a node, behind the gate and its store of votes or on raft's own.
func newBeatWorld(t *testing.T, guarded bool) *beatWorld {
	w := &beatWorld{t: t, store: &slowStore{InmemStore: raft.NewInmemStore(), turn: make(chan struct{}, 1)}}
	_, inmem := raft.NewInmemTransport("me")
	w.trans = &beatTransport{InmemTransport: inmem}
	for _, name := range []raft.ServerAddress{"b", "c"} {
		w.peer(name)
	}
	var stable raft.StableStore = w.store
	var trans raft.Transport = w.trans
	if guarded {
		votes := newVoteStore(w.store, newWatch(time.Hour, func(err error) { t.Error(err) }))
		g := newGate(w.trans, func() bool { return true }, &installs{}, votes)
		var forwarding sync.WaitGroup
		forwarding.Go(g.forward)
		w.stop = append(w.stop, forwarding.Wait, func() { _ = g.Close() })
		stable, trans = votes, g
	}
	conf := raft.DefaultConfig()
	conf.LocalID = "me"
	conf.Logger = hclog.NewNullLogger()
	snapshots := raft.NewDiscardSnapshotStore()
	servers := raft.Configuration{Servers: []raft.Server{{ID: "me", Address: "me"}, {ID: "b", Address: "b"}, {ID: "c", Address: "c"}}}
	if err := raft.BootstrapCluster(conf, w.store, stable, snapshots, nil, servers); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.raft, err = raft.NewRaft(conf, nothing{}, w.store, stable, snapshots, trans); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *beatWorld) peer(name raft.ServerAddress) {
	_, peer := raft.NewInmemTransport(name)
	w.trans.Connect(name, peer)
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case rpc := <-peer.Consumer():
				header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}
				switch req := rpc.Command.(type) {
				case *raft.RequestPreVoteRequest:
					rpc.Respond(&raft.RequestPreVoteResponse{RPCHeader: header, Term: req.Term, Granted: true}, nil)
				case *raft.RequestVoteRequest:
					rpc.Respond(&raft.RequestVoteResponse{RPCHeader: header, Term: req.Term, Granted: true}, nil)
				default:
					rpc.Respond(nil, errors.New("not today"))
				}
			case <-stop:
				return
			}
		}
	})
	w.stop = append(w.stop, running.Wait, func() { close(stop) })
}

// beat sends a heartbeat as a leader of the term does, and returns without its answer.
func (w *beatWorld) beat(leader string, term uint64) {
	var sent sync.WaitGroup
	sent.Go(func() {
		w.trans.answer(raft.RPC{
			Command: &raft.AppendEntriesRequest{
				RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(leader), Addr: []byte(leader)}, Term: term,
			},
			RespChan: make(chan raft.RPCResponse, 1),
		})
	})
	w.stop = append(w.stop, sent.Wait)
	synctest.Wait()
}

func (w *beatWorld) close() {
	f := w.raft.Shutdown()
	for n := range w.stop {
		w.stop[len(w.stop)-1-n]()
	}
	if err := f.Error(); err != nil {
		w.t.Error(err)
	}
}

// termAfterLateBeat has the node write the term in which it stands for election while a
// heartbeat of the leader before arrives, and answers in which term it is afterwards.
func termAfterLateBeat(t *testing.T, guarded bool) (stood, is uint64) {
	w := newBeatWorld(t, guarded)
	defer w.close()
	w.beat("b", 2)
	if term := w.raft.CurrentTerm(); term != 2 {
		t.Fatalf("the node follows in term %d, want 2", term)
	}
	began, goOn := w.store.hold()
	<-began // b was not heard for a while
	w.beat("b", 2)
	close(goOn)
	synctest.Wait()
	return 3, w.raft.CurrentTerm()
}

func TestHeartbeatOfTheOldLeaderDoesNotTakeTheTermBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if stood, is := termAfterLateBeat(t, true); is < stood {
			t.Errorf("the node stood for election in term %d, and is in term %d after a late heartbeat", stood, is)
		}
	})
}

// termOfEntries has a leader write an entry while the heartbeat of a later one arrives,
// and answers the leader's term before and while it writes.
func termOfEntries(t *testing.T, guarded bool) (before, while uint64) {
	w := newBeatWorld(t, guarded)
	defer w.close()
	for w.raft.State() != raft.Leader {
		time.Sleep(time.Millisecond)
	}
	synctest.Wait()
	before = w.raft.CurrentTerm()
	began, goOn := w.store.hold()
	w.raft.Apply([]byte("x"), time.Second)
	<-began
	w.beat("b", before+1)
	while = w.raft.CurrentTerm()
	close(goOn)
	synctest.Wait()
	if after := w.raft.CurrentTerm(); after != before+1 || w.raft.State() != raft.Follower {
		t.Errorf("the node is %v in term %d after the heartbeat of term %d", w.raft.State(), after, before+1)
	}
	return before, while
}

func TestHeartbeatOfALaterTermWaitsForTheMainLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if before, while := termOfEntries(t, true); while != before {
			t.Errorf("a leader of term %d was in term %d in the middle of a write", before, while)
		}
	})
}

// TestHeartbeatsChangeTheTermWithoutTheGate shows that the tests above have teeth.
func TestHeartbeatsChangeTheTermWithoutTheGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if stood, is := termAfterLateBeat(t, false); is >= stood {
			t.Errorf("the node is still in term %d: raft keeps its term by now, and the gate need not", is)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		if before, while := termOfEntries(t, false); while == before {
			t.Errorf("the leader was still in term %d: raft keeps its term by now, and the gate need not", while)
		}
	})
}
