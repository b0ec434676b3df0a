package session

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// settled is how long a session must last to count as a good one.
const settled = 10 * time.Second

// Keeper keeps one session open; see the package comment.
type Keeper struct {
	o       Options
	route   *route
	backoff backoff
	slow    int           // rounds in which a person had to do something
	hold    time.Duration // the longest wait that a node of this round asked for
	round   []string      // what the nodes of this round said
	renewed bool          // a journal was begun and no session has stood since
	unknown *RefusedError // what a node of this round said that does not know the agent

	complaint  string // what a person was last told to mend, and when
	complained time.Time
}

// complainAgain is how often a person is told the same.
const complainAgain = 10 * time.Minute

// New makes a Keeper; it touches nothing outside.
func New(o Options) (*Keeper, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	return &Keeper{o: o, route: newRoute(o.AgentID), backoff: backoff{cap: o.BackoffCap}}, nil
}

// Run keeps a session until ctx ends, says goodbye and returns nil. It may be called
// once. When it returns, no goroutine and no connection is left.
func (k *Keeper) Run(ctx context.Context) error {
	var next *link
	for ctx.Err() == nil {
		if next == nil {
			n, ok := k.route.next(k.o.Trust.Nodes())
			if !ok {
				k.endRound(ctx)
				continue
			}
			l, err := k.connect(ctx, n)
			if err != nil {
				k.failed(ctx, err)
				continue
			}
			next = l
		}
		next = k.live(ctx, next)
	}
	if next != nil {
		next.close()
	}
	return nil
}

// live is one session, from Hello to its end. It gives the stream to go on with, if a
// move has found one.
func (k *Keeper) live(ctx context.Context, l *link) *link {
	s := &session{k: k, link: l, began: time.Now(), log: k.o.Logger.With("node", l.node.Address)}
	moved, err := s.run(ctx)
	k.route.lost = l.node.key()
	k.route.tried[k.route.lost] = true
	if !s.stood {
		k.failed(ctx, err)
		return nil
	}
	k.unknown = nil // what was said before it
	if r, ok := errors.AsType[*RefusedError](err); ok && k.course(r) == courseEnrol {
		k.unknown = r
	}
	lasted := time.Since(s.began)
	k.o.Logger.Info("session closed", "node_id", s.nodeID, "session_epoch", s.epoch, "lasted", lasted.Round(time.Millisecond).String(), "err", err)
	k.slow, k.renewed, k.complaint = 0, false, ""
	if lasted >= settled || moved != nil {
		k.backoff.reset()
		k.route.again()
		k.round = nil
	} else {
		k.round = append(k.round, err.Error())
	}
	return moved
}

func (k *Keeper) course(r *RefusedError) course {
	how, _ := courseOf(r.Reason, k.o.AgentID)
	return how
}

// failed takes note of a try that came to no session, and waits where any other node
// would say the same.
func (k *Keeper) failed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	k.round = append(k.round, err.Error())
	var r *RefusedError
	if !errors.As(err, &r) {
		k.o.Logger.Debug("no session", "err", err)
		return
	}
	how, hint := courseOf(r.Reason, k.o.AgentID)
	switch {
	case how == courseRenew && !k.renewed:
		k.renewed = true
		k.route.again()
	case how == courseWait:
		wait := jittered(max(r.RetryAfter, 100*time.Millisecond))
		k.o.Logger.Info("session has to wait", "err", err, "wait", wait.Round(time.Millisecond).String())
		sleep(ctx, wait)
		k.route.again()
	case how == courseSlow || how == courseRenew:
		k.idle(ctx, r, hint)
	case how == courseEnrol:
		// Any node asks the others before it says so. Yet a word of one node is no reason
		// to stop talking to those that let the agent in.
		k.unknown = r
		k.o.Logger.Debug("no session", "err", err)
	default:
		k.hold = max(k.hold, r.RetryAfter)
		k.o.Logger.Debug("no session", "err", err)
	}
}

// idle waits until a person may have done what has to be done.
func (k *Keeper) idle(ctx context.Context, r *RefusedError, hint string) {
	wait := max(slow(k.slow), r.RetryAfter)
	k.slow++
	log := k.o.Logger.Debug
	if why := r.Error(); why != k.complaint || time.Since(k.complained) >= complainAgain {
		k.complaint, k.complained = why, time.Now()
		log = k.o.Logger.Error
	}
	log("this agent gets no work", "err", r, "hint", hint, "next_try_in", wait.Round(time.Second).String())
	sleep(ctx, wait)
	k.route.again()
	k.round, k.hold = nil, 0
}

// enrol has the agent enrol again, or waits when that cannot be done.
func (k *Keeper) enrol(ctx context.Context, r *RefusedError) {
	_, hint := courseOf(r.Reason, k.o.AgentID)
	if r.Hint != "" {
		hint = r.Hint
	}
	if k.o.Removed != nil {
		err := k.o.Removed(ctx)
		if err == nil {
			k.round = nil
			k.route.again()
			return
		}
		if ctx.Err() != nil {
			return
		}
		r = &RefusedError{Reason: r.Reason, Detail: r.Detail + "; " + err.Error(), RetryAfter: r.RetryAfter}
	}
	k.idle(ctx, r, hint)
}

// endRound waits when all nodes have been tried.
func (k *Keeper) endRound(ctx context.Context) {
	if r := k.unknown; r != nil {
		k.unknown = nil
		k.enrol(ctx, r)
		return
	}
	wait := max(k.backoff.next(), jittered(k.hold))
	why := strings.Join(k.round, "; ")
	if len(k.round) == 0 {
		why = "no node is known; give --servers"
	}
	k.o.Logger.Warn("no node takes a session", "err", fmt.Sprintf("%.2048s", why), "next_try_in", wait.Round(time.Millisecond).String())
	sleep(ctx, wait)
	k.route.again()
	k.round, k.hold = nil, 0
}
