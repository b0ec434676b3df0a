package operator

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	leaseA = "01890000-0000-7000-8000-00000000000a"
	leaseB = "01890000-0000-7000-8000-00000000000b"
	leaseC = "01890000-0000-7000-8000-00000000000c"
)

func (w *world) createLock(req *agentplanev1.CreateLockRequest) {
	w.t.Helper()
	if _, err := w.Locks.CreateLock(w.t.Context(), req); err != nil {
		w.t.Fatal(err)
	}
}

func TestLocksOfTheFleet(t *testing.T) {
	w := fleetWorld(t)
	w.createLock(&agentplanev1.CreateLockRequest{Name: "env", Limit: 1, PerLabel: "env"})
	r, err := w.Locks.CreateLock(t.Context(), &agentplanev1.CreateLockRequest{Name: "env", Limit: 1, PerLabel: "env"})
	if err != nil || !r.GetRepeated() || r.GetLock().GetCreatedBy() != "alice" {
		t.Fatalf("the same again: %v, %v", r, err)
	}
	_, err = w.Locks.CreateLock(t.Context(), &agentplanev1.CreateLockRequest{Name: "env", Limit: 2})
	wantRefusal(t, err, codes.AlreadyExists, "lock_exists")
	w.createLock(&agentplanev1.CreateLockRequest{Name: "budget", Limit: 5, Selector: `label.env=="prod"`})

	got, err := w.Locks.AcquireLock(t.Context(), &agentplanev1.AcquireLockRequest{Name: "env", LeaseId: leaseA, Agent: "web-1", Ttl: int64(time.Minute), Note: "by hand"})
	if err != nil || got.GetFence() == 0 || got.GetGroup() != "prod" {
		t.Fatalf("%v, %v", got, err)
	}
	again, err := w.Locks.AcquireLock(t.Context(), &agentplanev1.AcquireLockRequest{Name: "env", LeaseId: leaseA, Agent: "web-1", Ttl: int64(time.Minute)})
	if err != nil || again.GetFence() != got.GetFence() || again.GetExpiresAt() != got.GetExpiresAt() {
		t.Fatalf("the same lease again: %v, %v", again, err)
	}
	_, err = w.Locks.AcquireLock(t.Context(), &agentplanev1.AcquireLockRequest{Name: "env", LeaseId: leaseB, Agent: "web-2", Ttl: int64(time.Minute)})
	wantRefusal(t, err, codes.ResourceExhausted, "locked")
	_, err = w.Locks.AcquireLock(t.Context(), &agentplanev1.AcquireLockRequest{Name: "none", LeaseId: leaseB, Ttl: int64(time.Minute), WaitMs: 1000})
	wantRefusal(t, err, codes.NotFound, "no_lock")
	_, err = w.Locks.AcquireLock(t.Context(), &agentplanev1.AcquireLockRequest{Name: "env", LeaseId: leaseB, Agent: "nobody", Ttl: int64(time.Minute)})
	wantRefusal(t, err, codes.NotFound, "no_agent")

	one, err := w.Locks.GetLock(t.Context(), &agentplanev1.GetLockRequest{Name: "env"})
	if err != nil || one.GetLock().GetHeld() != 1 || len(one.GetLock().GetHolders()) != 1 {
		t.Fatalf("%v, %v", one, err)
	}
	if h := one.GetLock().GetHolders()[0]; h.GetLeaseId() != leaseA || h.GetHolder() != "alice" || h.GetAgentName() != "web-1" || h.GetNote() != "by hand" || h.GetFence() != got.GetFence() {
		t.Errorf("holder %v", h)
	}
	all, err := w.Locks.ListLocks(t.Context(), &agentplanev1.ListLocksRequest{})
	if err != nil || len(all.GetLocks()) != 2 || all.GetLocks()[0].GetSelector() != `label.env == "prod"` || all.GetLocks()[1].GetHeld() != 1 {
		t.Fatalf("%v, %v", all, err)
	}

	w.now = w.now.Add(20 * time.Second)
	renewed, err := w.Locks.RenewLock(t.Context(), &agentplanev1.RenewLockRequest{Name: "env", LeaseId: leaseA})
	if err != nil || renewed.GetExpiresAt() != got.GetExpiresAt()+int64(20*time.Second) {
		t.Fatalf("%v, %v", renewed, err)
	}
	w.caller.name = "bob"
	_, err = w.Locks.ReleaseLock(t.Context(), &agentplanev1.ReleaseLockRequest{Name: "env", LeaseId: leaseA})
	wantRefusal(t, err, codes.FailedPrecondition, "other_holder")
	_, err = w.Locks.RenewLock(t.Context(), &agentplanev1.RenewLockRequest{Name: "env", LeaseId: leaseA})
	wantRefusal(t, err, codes.FailedPrecondition, "other_holder")
	_, err = w.Locks.DeleteLock(t.Context(), &agentplanev1.DeleteLockRequest{Name: "env"})
	wantRefusal(t, err, codes.FailedPrecondition, "lock_held")
	if _, err = w.Locks.BreakLease(t.Context(), &agentplanev1.BreakLeaseRequest{Name: "env", LeaseId: leaseA}); err != nil {
		t.Fatal(err)
	}
	w.caller.name = "alice"
	_, err = w.Locks.RenewLock(t.Context(), &agentplanev1.RenewLockRequest{Name: "env", LeaseId: leaseA})
	wantRefusal(t, err, codes.NotFound, "lease_lost")
	for range 2 {
		if _, err = w.Locks.ReleaseLock(t.Context(), &agentplanev1.ReleaseLockRequest{Name: "env", LeaseId: leaseA}); err != nil {
			t.Fatal(err)
		}
		if _, err = w.Locks.DeleteLock(t.Context(), &agentplanev1.DeleteLockRequest{Name: "env"}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = w.Locks.GetLock(t.Context(), &agentplanev1.GetLockRequest{Name: "env"})
	wantRefusal(t, err, codes.NotFound, "no_lock")
	// A repetition that comes late takes nothing.
	_, err = w.Locks.AcquireLock(t.Context(), &agentplanev1.AcquireLockRequest{Name: "env", LeaseId: leaseA, Ttl: int64(time.Minute), Limit: 1})
	wantRefusal(t, err, codes.FailedPrecondition, "lease_over")
}

func TestCommandsTakePlacesAndTheQueueSaysWhoHasThem(t *testing.T) {
	w := fleetWorld(t)
	spec := w.spec("all")
	spec.FleetLocks = []string{"deploy"}
	_, err := w.Commands.Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope(t, spec)})
	wantRefusal(t, err, codes.NotFound, "no_lock")
	w.createLock(&agentplanev1.CreateLockRequest{Name: "deploy", Limit: 1})
	row := w.submit(spec)
	names := map[string]string{row.GetId(): "it"}
	w.run(row.GetId(), "a1", raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING, nil)
	r, got := w.queue("a3", names)
	if len(got) != 1 || got[0] != "it RELEASED locked it" || r.GetItems()[0].GetFleetLocks()[0] != "deploy" {
		t.Errorf("queue is %q", got)
	}
	w.createLock(&agentplanev1.CreateLockRequest{Name: "prod", Limit: 1, Selector: `label.env == "prod"`})
	one, err := w.Locks.GetLock(t.Context(), &agentplanev1.GetLockRequest{Name: "prod"})
	if h := one.GetLock().GetHolders(); err != nil || len(h) != 1 || !h[0].GetAdopted() || h[0].GetCommandId() != row.GetId() {
		t.Fatalf("what ran before is not counted: %v, %v", one, err)
	}
	w.submit(w.spec(`id == "a1"`))
	if r, got = w.queue("a1", names); got[1] != "RELEASED budget it" {
		t.Errorf("queue is %q: %v", got, r)
	}
	if _, err := w.Locks.DeleteLock(t.Context(), &agentplanev1.DeleteLockRequest{Name: "deploy", Force: true}); err != nil {
		t.Fatal(err)
	}
	if _, got = w.queue("a3", names); got[0] != "it RELEASED no_lock" {
		t.Errorf("queue is %q", got)
	}
}

// Who waits is told at once that a place is free, and proposes nothing before.
func TestAcquireWaitsForAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		acquire := func(lease string, wait time.Duration) (*agentplanev1.AcquireLockResponse, error) {
			return w.Locks.AcquireLock(t.Context(), &agentplanev1.AcquireLockRequest{
				Name: "one", LeaseId: lease, Ttl: int64(time.Minute), Limit: 1, WaitMs: uint32(wait.Milliseconds()),
			})
		}
		first, err := acquire(leaseA, 0)
		if err != nil {
			t.Fatal(err)
		}
		before, _ := w.m.Published()
		began := time.Now()
		_, err = acquire(leaseB, 3*time.Second)
		wantRefusal(t, err, codes.ResourceExhausted, "locked")
		if waited := time.Since(began); waited != 3*time.Second {
			t.Errorf("it waited %v", waited)
		}
		if after, _ := w.m.Published(); after != before+1 { // that which was refused
			t.Errorf("waiting took %d entries", after-before)
		}
		type answer struct {
			r   *agentplanev1.AcquireLockResponse
			err error
			at  time.Time
		}
		done := make(chan answer)
		go func() {
			r, err := acquire(leaseB, 5*time.Second)
			done <- answer{r, err, time.Now()}
		}()
		time.Sleep(time.Second)
		synctest.Wait()
		freed := time.Now()
		if _, err := w.Locks.ReleaseLock(t.Context(), &agentplanev1.ReleaseLockRequest{Name: "one", LeaseId: leaseA}); err != nil {
			t.Fatal(err)
		}
		a := <-done
		if a.err != nil || a.r.GetFence() <= first.GetFence() || !a.at.Equal(freed) {
			t.Errorf("%v, %v, %v after the place was free", a.r, a.err, a.at.Sub(freed))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		began = time.Now()
		_, err = w.Locks.AcquireLock(ctx, &agentplanev1.AcquireLockRequest{Name: "one", LeaseId: leaseC, Ttl: int64(time.Minute), WaitMs: 10_000})
		wantRefusal(t, err, codes.ResourceExhausted, "locked")
		if waited := time.Since(began); waited != 1500*time.Millisecond {
			t.Errorf("it waited %v of a deadline of 2 s", waited)
		}
	})
}
