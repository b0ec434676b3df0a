package clienttest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// lockService is a LockService for leases alone, of which each lock has one group.
type lockService struct {
	agentplanev1.UnimplementedLockServiceServer
	service
}

func (s *State) lockLocked(name string) (*agentplanev1.Lock, error) {
	for _, l := range s.locks {
		if l.Name == name {
			return l, nil
		}
	}
	return nil, Refusal(codes.NotFound, "no_lock", fmt.Sprintf("there is no lock %q", name), "see agentctl lock list")
}

func (s *State) dropLockLocked(name string) {
	s.locks = slices.DeleteFunc(s.locks, func(l *agentplanev1.Lock) bool { return l.Name == name })
}

// HoldLock has somebody take a place of the lock.
func (s *State) HoldLock(name, lease string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l, err := s.lockLocked(name); err == nil {
		l.Holders, l.Held = append(l.Holders, &agentplanev1.LockHolder{LeaseId: lease, Holder: "eve"}), l.Held+1
	}
}

// BreakLeases takes their places from all who hold the lock.
func (s *State) BreakLeases(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLockLocked(name)
}

func (l lockService) CreateLock(_ context.Context, req *agentplanev1.CreateLockRequest) (*agentplanev1.CreateLockResponse, error) {
	s := l.state
	s.mu.Lock()
	defer s.mu.Unlock()
	if have, err := s.lockLocked(req.Name); err == nil {
		if have.Limit != req.Limit || have.PerLabel != req.PerLabel || have.Selector != req.Selector {
			return nil, Refusal(codes.AlreadyExists, "lock_exists", fmt.Sprintf("lock %q exists with another limit", req.Name), "see agentctl lock get")
		}
		return &agentplanev1.CreateLockResponse{Lock: clone(have), Repeated: true}, nil
	}
	s.changedLocked()
	made := &agentplanev1.Lock{Name: req.Name, Limit: req.Limit, PerLabel: req.PerLabel, Selector: req.Selector, CreatedBy: "admin", CreatedAt: time.Now().UnixNano()}
	s.locks = append(s.locks, made)
	return &agentplanev1.CreateLockResponse{Lock: clone(made)}, nil
}

func (l lockService) DeleteLock(_ context.Context, req *agentplanev1.DeleteLockRequest) (*agentplanev1.DeleteLockResponse, error) {
	s := l.state
	s.mu.Lock()
	defer s.mu.Unlock()
	if have, err := s.lockLocked(req.Name); err == nil && have.Held > 0 && !req.Force {
		return nil, Refusal(codes.FailedPrecondition, "lock_held", fmt.Sprintf("lock %q is held", req.Name), "use --force")
	}
	s.changedLocked()
	s.dropLockLocked(req.Name)
	return &agentplanev1.DeleteLockResponse{}, nil
}

func (l lockService) ListLocks(context.Context, *agentplanev1.ListLocksRequest) (*agentplanev1.ListLocksResponse, error) {
	l.state.mu.Lock()
	defer l.state.mu.Unlock()
	r := &agentplanev1.ListLocksResponse{}
	for _, have := range l.state.locks {
		row := clone(have)
		row.Holders = nil
		r.Locks = append(r.Locks, row)
	}
	return r, nil
}

func (l lockService) GetLock(_ context.Context, req *agentplanev1.GetLockRequest) (*agentplanev1.GetLockResponse, error) {
	l.state.mu.Lock()
	defer l.state.mu.Unlock()
	have, err := l.state.lockLocked(req.Name)
	if err != nil {
		return nil, err
	}
	return &agentplanev1.GetLockResponse{Lock: clone(have)}, nil
}

func (l lockService) AcquireLock(_ context.Context, req *agentplanev1.AcquireLockRequest) (*agentplanev1.AcquireLockResponse, error) {
	s := l.state
	s.mu.Lock()
	defer s.mu.Unlock()
	have, err := s.lockLocked(req.Name)
	switch {
	case err != nil && req.Limit == 0:
		return nil, err
	case err != nil:
		have = &agentplanev1.Lock{Name: req.Name, Limit: req.Limit, PerLabel: req.PerLabel, CreatedBy: "admin", CreatedAt: time.Now().UnixNano(), Implicit: true}
		s.locks = append(s.locks, have)
	case req.Limit != 0 && req.Limit != have.Limit:
		return nil, Refusal(codes.AlreadyExists, "lock_exists", fmt.Sprintf("lock %q exists with limit %d", req.Name, have.Limit), "see agentctl lock get")
	}
	for _, h := range have.Holders {
		if h.LeaseId == req.LeaseId {
			return &agentplanev1.AcquireLockResponse{Fence: h.Fence, ExpiresAt: h.ExpiresAt}, nil
		}
	}
	if have.Held >= have.Limit {
		return nil, Refusal(codes.ResourceExhausted, "locked", fmt.Sprintf("all places of lock %q are taken", req.Name), "see agentctl lock get")
	}
	s.changedLocked()
	h := &agentplanev1.LockHolder{
		Fence: s.index, LeaseId: req.LeaseId, Holder: "admin", TakenAt: time.Now().UnixNano(), ExpiresAt: time.Now().UnixNano() + req.Ttl, Note: req.Note,
	}
	have.Holders = append(have.Holders, h)
	have.Held++
	return &agentplanev1.AcquireLockResponse{Fence: h.Fence, ExpiresAt: h.ExpiresAt}, nil
}

func (l lockService) RenewLock(_ context.Context, req *agentplanev1.RenewLockRequest) (*agentplanev1.RenewLockResponse, error) {
	l.state.mu.Lock()
	defer l.state.mu.Unlock()
	if have, err := l.state.lockLocked(req.Name); err == nil {
		for _, h := range have.Holders {
			if h.LeaseId == req.LeaseId {
				return &agentplanev1.RenewLockResponse{ExpiresAt: h.ExpiresAt}, nil
			}
		}
	}
	return nil, Refusal(codes.NotFound, "lease_lost", "the lease holds no place any more", "see agentctl lock get")
}

func (l lockService) ReleaseLock(_ context.Context, req *agentplanev1.ReleaseLockRequest) (*agentplanev1.ReleaseLockResponse, error) {
	l.release(req.Name, req.LeaseId)
	return &agentplanev1.ReleaseLockResponse{}, nil
}

func (l lockService) BreakLease(_ context.Context, req *agentplanev1.BreakLeaseRequest) (*agentplanev1.BreakLeaseResponse, error) {
	l.release(req.Name, req.LeaseId)
	return &agentplanev1.BreakLeaseResponse{}, nil
}

func (l lockService) release(name, lease string) {
	s := l.state
	s.mu.Lock()
	defer s.mu.Unlock()
	have, err := s.lockLocked(name)
	if err != nil {
		return
	}
	s.changedLocked()
	have.Holders = slices.DeleteFunc(have.Holders, func(h *agentplanev1.LockHolder) bool { return h.LeaseId == lease })
	if have.Held = uint32(len(have.Holders)); have.Implicit && have.Held == 0 {
		s.dropLockLocked(name)
	}
}
