package operator

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

func TestCheckStateAnswersForTheIndexThatIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		taken := &agentplanev1.Process{Goroutines: 7}
		w := newWorld(t, func(o *Options) { o.Process = func() *agentplanev1.Process { return taken } })
		w.cfg.Leader = "" // whoever leads
		at := w.m.View()
		hash := at.Hash()
		began := time.Now()
		r, err := w.Cluster.CheckState(t.Context(), &agentplanev1.CheckStateRequest{Index: at.Index()})
		if err != nil || r.GetAppliedIndex() != at.Index() || !bytes.Equal(r.GetHash(), hash[:]) || r.GetNodeId() != "n1" || r.GetProcess() != taken {
			t.Errorf("%v, %v", r, err)
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("it waited for %v for what is there", waited)
		}
		// Nothing comes: after a moment it is what there is.
		if r, err = w.Cluster.CheckState(t.Context(), &agentplanev1.CheckStateRequest{Index: at.Index() + 5}); err != nil || r.GetAppliedIndex() != at.Index() {
			t.Errorf("%v, %v", r, err)
		}
		// Nor is anybody else's sum to blame where the caller's time goes by with the wait.
		for range 20 {
			late, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			if r, err = w.Cluster.CheckState(late, &agentplanev1.CheckStateRequest{Index: at.Index() + 5}); err != nil || r.GetAppliedIndex() != at.Index() {
				t.Errorf("%v, %v", r, err)
			}
			cancel()
		}
		// Of many entries the one that is asked for.
		answer := make(chan *agentplanev1.CheckStateResponse, 1)
		go func() {
			r, err := w.Cluster.CheckState(t.Context(), &agentplanev1.CheckStateRequest{Index: at.Index() + 2})
			if err != nil {
				t.Error(err)
			}
			answer <- r
		}()
		synctest.Wait()
		for range 5 {
			w.index++
			w.m.Advance(w.index)
		}
		if r := <-answer; r.GetAppliedIndex() != at.Index()+2 || bytes.Equal(r.GetHash(), hash[:]) {
			t.Errorf("index %d, want %d, and another hash", r.GetAppliedIndex(), at.Index()+2)
		}
	})
}

func TestCheckStateSumsForOneCallerAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.Cluster.checking <- struct{}{} // somebody's sum takes long
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := w.Cluster.CheckState(ctx, &agentplanev1.CheckStateRequest{})
		if status.Code(err) != codes.Unavailable || agentplanev1.DetailOf(err).GetReason() != "timed_out" {
			t.Errorf("%v", err)
		}
	})
}
