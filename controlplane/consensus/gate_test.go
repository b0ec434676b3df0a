package consensus

import (
	"errors"
	"strings"
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

// openGate is a gate that forwards what the inbox gets, until the test ends.
func openGate(t *testing.T) (inbox, *gate) {
	in := inbox{rpcs: make(chan raft.RPC)}
	g := newGate(in, func() bool { return true }, &installs{}, newVoteStore(nil, nil))
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.forward()
	}()
	t.Cleanup(func() {
		_ = g.Close()
		<-done
	})
	return in, g
}

// TestEntriesOfALaterTermThanTheirSenderAreRefused sends what a leader's sender sends
// that has outlived its term.
func TestEntriesOfALaterTermThanTheirSenderAreRefused(t *testing.T) {
	in, g := openGate(t)
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

// TestSnapshotsOfALaterTermThanTheirSenderAreRefused is the same of a sender that was at a
// snapshot, as its node made one in its next term.
func TestSnapshotsOfALaterTermThanTheirSenderAreRefused(t *testing.T) {
	in, g := openGate(t)
	answers := make(chan raft.RPCResponse, 1)
	snapshot := func(term, last uint64) (raft.RPC, *strings.Reader) {
		content := strings.NewReader("what the snapshot holds")
		return raft.RPC{RespChan: answers, Reader: content, Command: &raft.InstallSnapshotRequest{Term: term, LastLogIndex: 9, LastLogTerm: last}}, content
	}
	late, content := snapshot(6, 8)
	in.rpcs <- late
	select {
	case a := <-answers:
		if !errors.Is(a.Error, errOutlivedTerm) || content.Len() > 0 {
			t.Errorf("it was answered by %v, %v, and %d bytes are left", a.Response, a.Error, content.Len())
		}
	case rpc := <-g.Consumer():
		t.Fatalf("raft was handed %+v", rpc.Command)
	}
	now, _ := snapshot(8, 8)
	in.rpcs <- now
	select {
	case a := <-answers:
		t.Errorf("a snapshot of the leader's own term was answered by %v, %v", a.Response, a.Error)
	case rpc := <-g.Consumer():
		rpc.Respond(&raft.InstallSnapshotResponse{Success: true}, nil)
		<-answers
	}
}
