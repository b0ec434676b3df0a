package operator

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// maxLockWait bounds how long a call waits for a place; the caller asks again.
	maxLockWait = 10 * time.Second
	// maxLockWaiters bounds the calls that wait on this node at the same time.
	maxLockWaiters = 1000
	// answerIn is what is left of a caller's deadline for the answer.
	answerIn = 500 * time.Millisecond
)

// Locks looks after locks of the fleet.
type Locks struct {
	agentplanev1.UnimplementedLockServiceServer
	*service
	waiters chan struct{} // has a value for each call that waits
}

// CreateLock makes a semaphore, or with a selector a budget. The same again answers what
// stands.
func (l *Locks) CreateLock(ctx context.Context, req *agentplanev1.CreateLockRequest) (*agentplanev1.CreateLockResponse, error) {
	selector := req.GetSelector()
	if selector != "" {
		s, err := l.parseSelector(selector, false)
		if err != nil {
			return nil, err
		}
		selector = s.String()
	}
	o, v, err := l.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CreateLock{CreateLock: &raftlogv1.CreateLock{
		Name: req.GetName(), Limit: req.GetLimit(), PerLabel: req.GetPerLabel(), Selector: selector, CreatedBy: l.callerName(ctx),
	}}})
	if err != nil {
		return nil, err
	}
	row, err := l.lock(v, req.GetName())
	if err != nil {
		return nil, err
	}
	return &agentplanev1.CreateLockResponse{Lock: lockRow(v, row), Repeated: o.GetRepeated()}, nil
}

// DeleteLock removes a lock; with force also one that is held.
func (l *Locks) DeleteLock(ctx context.Context, req *agentplanev1.DeleteLockRequest) (*agentplanev1.DeleteLockResponse, error) {
	_, _, err := l.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_DeleteLock{DeleteLock: &raftlogv1.DeleteLock{
		Name: req.GetName(), Force: req.GetForce(),
	}}})
	if err != nil {
		return nil, err
	}
	return &agentplanev1.DeleteLockResponse{}, nil
}

// ListLocks answers the locks by name.
func (l *Locks) ListLocks(ctx context.Context, req *agentplanev1.ListLocksRequest) (*agentplanev1.ListLocksResponse, error) {
	v, err := l.read(ctx, req.GetStale())
	if err != nil {
		return nil, err
	}
	answer := &agentplanev1.ListLocksResponse{}
	for row := range v.Locks() {
		answer.Locks = append(answer.Locks, lockRow(v, row))
	}
	return answer, nil
}

// GetLock answers one lock and who holds it.
func (l *Locks) GetLock(ctx context.Context, req *agentplanev1.GetLockRequest) (*agentplanev1.GetLockResponse, error) {
	v, err := l.read(ctx, req.GetStale())
	if err != nil {
		return nil, err
	}
	row, err := l.lock(v, req.GetName())
	if err != nil {
		return nil, err
	}
	answer := lockRow(v, row)
	for p := range v.Places(row.GetName()) {
		answer.Holders = append(answer.Holders, holderRow(v, p))
	}
	return &agentplanev1.GetLockResponse{Lock: answer}, nil
}

// AcquireLock takes a place for the caller's lease. While none is free it waits for one,
// and proposes nothing: the feed says when it is worth trying.
func (l *Locks) AcquireLock(ctx context.Context, req *agentplanev1.AcquireLockRequest) (*agentplanev1.AcquireLockResponse, error) {
	m := &raftlogv1.AcquireLock{
		Lock: req.GetName(), LeaseId: req.GetLeaseId(), Holder: l.callerName(ctx), Ttl: req.GetTtl(), Note: req.GetNote(),
		Limit: req.GetLimit(), PerLabel: req.GetPerLabel(),
	}
	v, cursor := l.o.Machine.ViewAndWatch()
	if req.GetAgent() != "" {
		a, err := l.agent(v, req.GetAgent())
		if err != nil {
			return nil, err
		}
		m.AgentId = a.GetId()
	}
	waiting, cancel := l.patience(ctx, time.Duration(req.GetWaitMs())*time.Millisecond)
	defer cancel()
	for {
		// A lock that differs from what is asked, a lease that stands, and whatever else
		// there is to say, is for the state to say.
		if row, found := v.Lock(m.GetLock()); found && waiting != nil && taken(v, row, m) {
			if changed, err := l.changed(waiting, &cursor); changed {
				v = l.o.Machine.View()
				continue
			} else if err != nil && ctx.Err() != nil {
				return nil, l.proposeRefusal(ctx.Err())
			}
		}
		o, after, err := l.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_AcquireLock{AcquireLock: m}})
		if d := agentplanev1.DetailOf(err); d.GetReason() == fsm.ReasonLocked && waiting != nil && waiting.Err() == nil {
			v, cursor = l.o.Machine.ViewAndWatch() // somebody was faster
			continue
		}
		if err != nil {
			return nil, err
		}
		p, found := after.Lease(m.GetLeaseId())
		if !found { // it ended between the outcome and here
			return nil, l.refuse(codes.NotFound, "lease_lost", "lease %q held a place of lock %q and has ended since", m.GetLeaseId(), m.GetLock())
		}
		return &agentplanev1.AcquireLockResponse{Fence: o.GetNumber(), Group: p.GetGroup(), ExpiresAt: p.GetExpiresAt()}, nil
	}
}

// taken says that there is no place for the lease.
func taken(v *fsm.View, row *raftlogv1.Lock, m *raftlogv1.AcquireLock) bool {
	a, _ := v.Agent(m.GetAgentId())
	_, stands := v.Lease(m.GetLeaseId())
	return !stands && v.Need(row.GetName(), v.GroupOf(row, a)).Free() <= 0
}

// patience is for how long a call waits; nil when it does not.
func (l *Locks) patience(ctx context.Context, wait time.Duration) (context.Context, context.CancelFunc) {
	wait = min(wait, maxLockWait)
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)-answerIn)
	}
	if wait <= 0 {
		return nil, func() {}
	}
	select {
	case l.waiters <- struct{}{}:
	default:
		return nil, func() {} // enough are waiting: this one asks again
	}
	waiting, cancel := context.WithTimeout(ctx, wait)
	return waiting, func() {
		cancel()
		<-l.waiters
	}
}

// changed waits until a lock or a place has changed behind the cursor.
func (l *Locks) changed(ctx context.Context, cursor *fsm.Cursor) (bool, error) {
	_, next, err := l.o.Machine.ChangesIn(ctx, *cursor, fsm.TableLocks, fsm.TablePlaces)
	var compacted *fsm.CompactedError
	switch {
	case errors.As(err, &compacted):
		_, *cursor = l.o.Machine.ViewAndWatch()
		return true, nil
	case err != nil:
		return false, err
	}
	*cursor = next
	return true, nil
}

// RenewLock lets the caller's lease last its time from now.
func (l *Locks) RenewLock(ctx context.Context, req *agentplanev1.RenewLockRequest) (*agentplanev1.RenewLockResponse, error) {
	_, v, err := l.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RenewLock{RenewLock: &raftlogv1.RenewLock{
		Lock: req.GetName(), LeaseId: req.GetLeaseId(), Holder: l.callerName(ctx),
	}}})
	if err != nil {
		return nil, err
	}
	p, found := v.Lease(req.GetLeaseId())
	if !found {
		return nil, l.refuse(codes.NotFound, "lease_lost", "lease %q holds no place of lock %q any more", req.GetLeaseId(), req.GetName())
	}
	return &agentplanev1.RenewLockResponse{ExpiresAt: p.GetExpiresAt()}, nil
}

// ReleaseLock gives back the place of the caller's lease.
func (l *Locks) ReleaseLock(ctx context.Context, req *agentplanev1.ReleaseLockRequest) (*agentplanev1.ReleaseLockResponse, error) {
	if err := l.release(ctx, req.GetName(), req.GetLeaseId(), false); err != nil {
		return nil, err
	}
	return &agentplanev1.ReleaseLockResponse{}, nil
}

// BreakLease gives back the place of anybody's lease.
func (l *Locks) BreakLease(ctx context.Context, req *agentplanev1.BreakLeaseRequest) (*agentplanev1.BreakLeaseResponse, error) {
	if err := l.release(ctx, req.GetName(), req.GetLeaseId(), true); err != nil {
		return nil, err
	}
	return &agentplanev1.BreakLeaseResponse{}, nil
}

func (l *Locks) release(ctx context.Context, name, lease string, force bool) error {
	_, _, err := l.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReleaseLock{ReleaseLock: &raftlogv1.ReleaseLock{
		Lock: name, LeaseId: lease, Holder: l.callerName(ctx), Force: force,
	}}})
	return err
}

func (s *service) lock(v *fsm.View, name string) (*raftlogv1.Lock, error) {
	if row, found := v.Lock(name); found {
		return row, nil
	}
	return nil, s.refuse(codes.NotFound, "no_lock", "there is no lock %.80q", name)
}

func lockRow(v *fsm.View, l *raftlogv1.Lock) *agentplanev1.Lock {
	return &agentplanev1.Lock{
		Name: l.GetName(), Limit: l.GetLimit(), PerLabel: l.GetPerLabel(), Selector: l.GetSelector(), Held: v.Held(l.GetName()),
		CreatedBy: l.GetCreatedBy(), CreatedAt: l.GetCreatedAt(), Implicit: l.GetImplicit(),
	}
}

func holderRow(v *fsm.View, p *raftlogv1.Place) *agentplanev1.LockHolder {
	a, _ := v.Agent(p.GetAgentId())
	i, _ := v.Invocation(p.GetInvocationId())
	return &agentplanev1.LockHolder{
		Group: p.GetGroup(), Fence: p.GetFence(), CommandId: i.GetCommandId(), InvocationId: p.GetInvocationId(), Attempt: p.GetAttempt(),
		LeaseId: p.GetLeaseId(), Holder: p.GetHolder(), AgentId: p.GetAgentId(), AgentName: a.GetName(),
		TakenAt: p.GetTakenAt(), ExpiresAt: p.GetExpiresAt(), Note: p.GetNote(), Adopted: p.GetAdopted(),
	}
}
