package fsm

import (
	"fmt"
	"strings"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Reasons for which what is released waits although there is a slot.
const (
	// ReasonLocked: another command holds, or waits before it for, a lock of the host.
	ReasonLocked = "locked"
	// ReasonExclusive: a command has the host for itself, or waits before it to have it.
	ReasonExclusive = "exclusive"
)

// Wait is what keeps an attempt from being claimed.
type Wait struct {
	Reason    string
	Lock      string // where it is one
	Group     string // of a lock of the fleet that has several
	CommandID string // of whoever is in the way
	Holder    string // operator who has it, of a lock of the fleet
	Before    bool   // that one waits as well, and its turn is first
}

// String is a sentence for people.
func (w Wait) String() string {
	switch {
	case w.Reason == ReasonNoLock:
		return fmt.Sprintf("there is no lock %s any more", w.Lock)
	case w.Reason == ReasonBudget:
		return fmt.Sprintf("all places of budget %q%s are taken, %s", w.Lock, w.group(), w.holder())
	case strings.HasPrefix(w.Lock, fleetPrefix):
		return fmt.Sprintf("all places of lock %q%s are taken, %s", w.Lock, w.group(), w.holder())
	case w.Reason == ReasonExclusive && w.Before:
		return fmt.Sprintf("command %s is before it, and wants the host for itself", w.CommandID)
	case w.Reason == ReasonExclusive:
		return fmt.Sprintf("command %s runs there, and one of the two wants the host for itself", w.CommandID)
	case w.Before:
		return fmt.Sprintf("command %s is before it, and wants lock %q too", w.CommandID, w.Lock)
	case w.Reason == ReasonLocked:
		return fmt.Sprintf("command %s holds lock %q", w.CommandID, w.Lock)
	}
	return ""
}

func (w Wait) group() string {
	if w.Group == "" {
		return ""
	}
	return fmt.Sprintf(" for group %q", w.Group)
}

func (w Wait) holder() string {
	if w.CommandID != "" {
		return "one of them by command " + w.CommandID
	}
	return "one of them by a lease of operator " + w.Holder
}

// A Turn says which of an agent's released attempts may be claimed beside what runs
// there. Take it what runs, then ask for each of the others in the order of [View.Work].
//
// Claims alone would let a command that needs much of a host wait for ever while others
// pass it by. So whoever waits for the host bars what it needs to those behind it: one
// that wants the host for itself bars everything, one that wants locks bars those. It
// bars nothing to those of a higher priority, who are asked for first, and for no longer
// than until it expires. A command with other locks passes it by.
//
// The zero Turn is ready. It allocates nothing while no command has a lock.
type Turn struct {
	runs      string // a command that runs there
	exclusive Wait   // what has or wants the host for itself
	locks     []heldLock
}

type heldLock struct {
	name string
	wait Wait
}

// Take counts the attempt among those that run there.
func (t *Turn) Take(i *raftlogv1.Invocation, c *raftlogv1.Command) {
	t.runs = c.GetId()
	if i.GetExclusive() {
		t.exclusive = Wait{Reason: ReasonExclusive, CommandID: c.GetId()}
	}
	t.hold(c, false)
}

func (t *Turn) hold(c *raftlogv1.Command, before bool) {
	for _, name := range c.GetLocks() {
		t.locks = append(t.locks, heldLock{name, Wait{Reason: ReasonLocked, Lock: name, CommandID: c.GetId(), Before: before}})
	}
}

// Ask answers what keeps the attempt from being claimed; the empty Wait is nothing. One
// that waits bars what it needs to those that are asked for later; one that does not is
// to be taken when it is claimed.
func (t *Turn) Ask(i *raftlogv1.Invocation, c *raftlogv1.Command) Wait {
	w := t.exclusive
	if w.Reason == "" && i.GetExclusive() && t.runs != "" {
		w = Wait{Reason: ReasonExclusive, CommandID: t.runs}
	}
	if w.Reason == "" {
		for _, name := range c.GetLocks() {
			if w = t.holder(name); w.Reason != "" {
				break
			}
		}
	}
	if w.Reason == "" {
		return w
	}
	if i.GetExclusive() && t.exclusive.Reason == "" {
		t.exclusive = Wait{Reason: ReasonExclusive, CommandID: c.GetId(), Before: true}
	}
	t.hold(c, true)
	return w
}

func (t *Turn) holder(name string) Wait {
	for _, h := range t.locks {
		if h.name == name {
			return h.wait
		}
	}
	return Wait{}
}
