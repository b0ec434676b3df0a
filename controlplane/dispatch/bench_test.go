package dispatch

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

type sink struct{ n int }

func (s *sink) Send(*agentplanev1.SessionResponse) error { s.n++; return nil }

// BenchmarkSend is what the queue adds to one message.
func BenchmarkSend(b *testing.B) {
	q, to := newSendQueue(), &sink{}
	m := &agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Confirm{Confirm: &agentplanev1.Confirm{InvocationId: "c.1", Attempt: 1}}}
	ctx, cancel := context.WithCancel(context.Background())
	go q.write(ctx, to)
	b.ReportAllocs()
	for b.Loop() {
		for !q.offer(m) {
			runtime.Gosched() // let the writer catch up
		}
	}
	q.finish()
	<-q.written
	cancel()
}

// BenchmarkHeartbeat is what a beat costs beside gRPC.
func BenchmarkHeartbeat(b *testing.B) {
	d, err := New(Options{
		NodeID: "n", Machine: fsm.New(fsm.Options{}), Proposer: &testLog{}, CatchUp: func(context.Context) error { return nil },
		Caller: callerOf, Bundle: func() *agentplanev1.Bundle { return nil },
	})
	if err != nil {
		b.Fatal(err)
	}
	s := newSession(d, "a", nil)
	s.rate.SetBurst(1 << 40)
	s.rate.SetLimit(1 << 40)
	m := &agentplanev1.SessionRequest{Message: &agentplanev1.SessionRequest_Heartbeat{Heartbeat: &agentplanev1.Heartbeat{}}}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.take(m); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFanOut wakes 1 000 sessions by 1 000 changes of the feed.
func BenchmarkFanOut(b *testing.B) {
	const sessions = 1000
	d, err := New(Options{
		NodeID: "n", Machine: fsm.New(fsm.Options{}), Proposer: &testLog{}, CatchUp: func(context.Context) error { return nil },
		Caller: callerOf, Bundle: func() *agentplanev1.Bundle { return nil },
	})
	if err != nil {
		b.Fatal(err)
	}
	var changes []fsm.Change
	for i := range sessions {
		s := newSession(d, fmt.Sprintf("agent-%d", i), nil)
		if err := d.register(s, random()); err != nil {
			b.Fatal(err)
		}
		changes = append(changes, fsm.Change{Table: fsm.TableInvocations, Row: &raftlogv1.Invocation{AgentId: s.agentID}})
	}
	b.ReportAllocs()
	for b.Loop() {
		d.spread(changes)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/sessions, "ns/session")
}
