package client

import (
	"context"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// Locks returns the locks and budgets of the fleet.
func (c *Client) Locks(ctx context.Context, opts ...ReadOption) ([]*agentplanev1.Lock, error) {
	r, err := agentplanev1.NewLockServiceClient(c).ListLocks(ctx, &agentplanev1.ListLocksRequest{Stale: readOf(opts).stale})
	return r.GetLocks(), err
}

// Lock returns one lock and who holds it.
func (c *Client) Lock(ctx context.Context, name string, opts ...ReadOption) (*agentplanev1.Lock, error) {
	r, err := agentplanev1.NewLockServiceClient(c).GetLock(ctx, &agentplanev1.GetLockRequest{Name: name, Stale: readOf(opts).stale})
	return r.GetLock(), err
}

// CreateLock makes a lock, or with a selector a budget. repeated says that it stood so
// already.
func (c *Client) CreateLock(ctx context.Context, req *agentplanev1.CreateLockRequest) (made *agentplanev1.Lock, repeated bool, err error) {
	r, err := agentplanev1.NewLockServiceClient(c).CreateLock(ctx, req)
	return r.GetLock(), r.GetRepeated(), err
}

// DeleteLock removes a lock; with force also one that somebody holds, who may go on
// working. Repeated, it answers that it is gone.
func (c *Client) DeleteLock(ctx context.Context, name string, force bool) error {
	_, err := agentplanev1.NewLockServiceClient(c).DeleteLock(ctx, &agentplanev1.DeleteLockRequest{Name: name, Force: force})
	return err
}

// AcquireLock takes a place until the ttl of the request is over since it was taken or
// renewed, and returns the number of the grant, which grows with each. When none is free
// it waits for some seconds and fails with the reason "locked": ask again with the same
// lease, which takes one place however often it asks.
func (c *Client) AcquireLock(ctx context.Context, req *agentplanev1.AcquireLockRequest) (fence uint64, err error) {
	r, err := agentplanev1.NewLockServiceClient(c).AcquireLock(ctx, req)
	return r.GetFence(), err
}

// RenewLock keeps the place of a lease for its ttl from now. It fails with the reason
// "lease_lost" when the lease is over.
func (c *Client) RenewLock(ctx context.Context, name, lease string) error {
	_, err := agentplanev1.NewLockServiceClient(c).RenewLock(ctx, &agentplanev1.RenewLockRequest{Name: name, LeaseId: lease})
	return err
}

// ReleaseLock gives back one's own place. Repeated, it answers that it is free.
func (c *Client) ReleaseLock(ctx context.Context, name, lease string) error {
	_, err := agentplanev1.NewLockServiceClient(c).ReleaseLock(ctx, &agentplanev1.ReleaseLockRequest{Name: name, LeaseId: lease})
	return err
}

// BreakLease gives back anybody's place; whoever had it may still work.
func (c *Client) BreakLease(ctx context.Context, name, lease string) error {
	_, err := agentplanev1.NewLockServiceClient(c).BreakLease(ctx, &agentplanev1.BreakLeaseRequest{Name: name, LeaseId: lease})
	return err
}
