package consensus

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

var (
	// ErrNotLeader says that nothing happened because this node does not lead.
	// What matches it is a *NotLeaderError.
	ErrNotLeader = errors.New("not the leader")
	// ErrUnknown says that the entry may still commit, now or later: repeat the
	// same content or say that the outcome is unknown.
	ErrUnknown = errors.New("outcome unknown")
	// ErrBacklog says that nothing happened because too much is queued.
	ErrBacklog = errors.New("too many proposals are queued")
	// ErrShutdown says that nothing happened because the host is closing.
	ErrShutdown = errors.New("the node is shutting down")
	// ErrTooLarge says that nothing happened because a bound of an entry or of a
	// mutation is passed: trying again is of no use.
	ErrTooLarge = errors.New("too large for one entry")
	// ErrNoQuorum says that a majority of voters did not confirm this leader in
	// time.
	ErrNoQuorum = errors.New("no majority of voters answered")
	// ErrConfigurationChanged says that nothing happened because the
	// configuration is not the one that was named.
	ErrConfigurationChanged = errors.New("the cluster's configuration has changed")
	// ErrNoSuccessor says that no other voter is able and willing to lead.
	ErrNoSuccessor = errors.New("no other voter can take over")
	// ErrHasState refuses Bootstrap where a cluster already is.
	ErrHasState = errors.New("this node already belongs to a cluster")
	// ErrDamaged says that log, mark or stable store are not what this node wrote.
	// The node must rejoin empty.
	ErrDamaged = errors.New("the raft directory is damaged")
)

// damaged makes an error match ErrDamaged; its text names the remedy already.
type damaged struct{ error }

func (d *damaged) Unwrap() []error { return []error{ErrDamaged, d.error} }

// NotLeaderError says who leads instead, as far as this node knows.
type NotLeaderError struct {
	LeaderID      raft.ServerID // empty when unknown
	LeaderAddress raft.ServerAddress
	// TakingOffice says that this node has won the election and is about to lead:
	// asking it again soon makes sense.
	TakingOffice bool
}

func (e *NotLeaderError) Error() string {
	switch {
	case e.TakingOffice:
		return "not the leader (this node is taking office)"
	case e.LeaderID == "":
		return "not the leader (no leader is known)"
	default:
		return fmt.Sprintf("not the leader (leader is %s at %s)", e.LeaderID, e.LeaderAddress)
	}
}

// Is makes errors.Is(err, ErrNotLeader) hold.
func (e *NotLeaderError) Is(target error) bool { return target == ErrNotLeader }

// classify says what raft's answer to a proposal means. Only the answers listed as
// "nothing happened" are given before raft has written anything; every other one,
// also those that later versions may invent, leaves the outcome unknown.
func (h *Host) classify(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return h.notLeader()
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("%w: raft did not take the entry within %s", ErrBacklog, enqueueTimeout)
	default:
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
}
