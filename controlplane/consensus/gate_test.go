package consensus

import (
	"errors"
	"testing"

	"github.com/hashicorp/raft"
)

// inbox is a transport that only receives.
type inbox struct {
	raft.Transport
	raft.WithPreVote
	rpcs chan raft.RPC
}

func (i inbox) Consumer() <-chan raft.RPC { return i.rpcs }

// TestEntriesOfALaterTermThanTheirSenderAreRefused sends what a leader's sender sends
// that has outlived its term.
func TestEntriesOfALaterTermThanTheirSenderAreRefused(t *testing.T) {
	in := inbox{rpcs: make(chan raft.RPC)}
	g := newGate(in, func() bool { return true }, &installs{}, newVoteStore(nil, nil))
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.forward()
	}()
	defer func() { <-done }()
	defer g.Close()
	answers := make(chan raft.RPCResponse, 1)
	in.rpcs <- raft.RPC{RespChan: answers, Command: &raft.AppendEntriesRequest{
		Term: 3, PrevLogEntry: 7, PrevLogTerm: 3, Entries: []*raft.Log{{Index: 8, Term: 3}, {Index: 9, Term: 4}},
	}}
	select {
	case a := <-answers:
		if !errors.Is(a.Error, errOutlivedTerm) {
			t.Errorf("it was answered by %v, %v", a.Response, a.Error)
		}
	case rpc := <-g.Consumer():
		t.Errorf("raft was handed %+v", rpc.Command)
	}
	in.rpcs <- raft.RPC{RespChan: answers, Command: &raft.AppendEntriesRequest{
		Term: 4, PrevLogEntry: 7, PrevLogTerm: 3, Entries: []*raft.Log{{Index: 8, Term: 3}, {Index: 9, Term: 4}},
	}}
	select {
	case a := <-answers:
		t.Errorf("entries of earlier terms were answered by %v, %v", a.Response, a.Error)
	case <-g.Consumer():
	}
}
