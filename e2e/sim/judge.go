package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// lostWords are the reasons of LOST, each with the faults one of which it needs.
var lostWords = map[string][]string{
	"reboot":          {"reboot of an agent's host", hostPowerCut, announcedReboot, recordPowerCut},
	"supervisor_gone": {"kill a supervisor"},
	"agent_restart":   {"kill agentd", "crash of agentd at a start", "reboot of an agent's host", hostPowerCut, journalPutBack, recordCrash, recordPowerCut, announcedReboot, spoiltCache},
	"journal_behind":  {journalPutBack},
	"journal_lost":    {journalPutBack},
	"agent_removed":   {agentRemoval},
	"no_contact":      {"*"},
	"no_answer":       {"*"},
}

// heals waits until the healed world is live again: every agent has a session, a new
// command runs on all of them, and every command has ended.
func (w *World) heals(ctx context.Context) error {
	asked := time.Time{}
	// A removal whose outcome was unknown may come late; and that a journal was put back may
	// show when the session before it is over, which takes a leader.
	upkeep := func() { //nolint:contextcheck // a process has a life of its own
		if time.Since(asked) < time.Second {
			return
		}
		for _, n := range w.unsettled() {
			w.joinAgain(n, 20*time.Second)
		}
		for _, a := range w.agents {
			w.enrolAgain(a, 10*time.Second)
			w.readmit(a, 10*time.Second)
		}
		asked = time.Now()
	}
	if err := w.awaitOnline(ctx, upkeep); err != nil {
		return err
	}
	for {
		upkeep()
		if err := w.revive(); err != nil { //nolint:contextcheck // a process has a life of its own; a watchdog may still have ended a node
			return err
		}
		if why := w.unlike(); why != "" {
			select {
			case <-ctx.Done():
				return errors.New(why)
			case <-time.After(time.Second):
				continue
			}
		}
		if err := w.proof(ctx); err == nil {
			break
		} else if ctx.Err() != nil {
			return fmt.Errorf("no command runs on all agents: %w", err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	if err := w.vows(ctx); err != nil {
		return err
	}
	if err := w.settles(ctx); err != nil {
		return err
	}
	for {
		open, slots := 0, unsettledSchedules(w.newest())
		for range w.newest().OpenCommands() {
			open++
		}
		if open == 0 && slots == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d commands have not ended, %d schedules have not fired", open, slots)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// agree waits until all nodes have applied the same and the watch of agents has shown
// it, compares the states, and has the whole log audited.
func (w *World) agree(ctx context.Context) error {
	for {
		v, why := w.common()
		if why == "" {
			waves, locks, templates, losses, queues := newWaveJudge(), newLockJudge(), newTemplateJudge(), newLostJudge(), newQueueJudge()
			for _, wrong := range w.book.audit(v.Index(), func(v *fsm.View, e *raftlogv1.Entry, outcomes []*raftlogv1.Outcome, at time.Time) []string {
				return slices.Concat(w.watches.judge(v), waves.judge(v), locks.judge(v, e, outcomes), templates.judge(v, e, outcomes), judgeRecords(v, e, outcomes), losses.judge(v, e, outcomes, at), queues.judge(v, e, outcomes), judgeLevel(v))
			}) {
				w.fault("%s", wrong)
			}
			for _, wrong := range w.watches.wrong {
				w.fault("%s", wrong)
			}
			w.mu.Lock()
			for _, seen := range []map[string]int{waves.seen, locks.seen, templates.seen, losses.seen, queues.seen} {
				for what, n := range seen {
					w.accepted[what] += n
				}
			}
			w.mu.Unlock()
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New(why)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// common is the view that all nodes have, or why there is none yet.
func (w *World) common() (*fsm.View, string) {
	var first *fsm.View
	for _, n := range w.nodes {
		m := n.machine()
		if m == nil {
			return nil, n.name + " does not run"
		}
		v := m.View()
		if first == nil {
			first = v
		}
		if v.Index() != first.Index() {
			return nil, fmt.Sprintf("%s is at index %d and %s at %d", w.nodes[0].name, first.Index(), n.name, v.Index())
		}
		w.book.sample(n.name, v)
	}
	return first, w.watches.missing(first)
}

// judge compares what operators were told and what the hosts saw with the state. Where commands
// are purged only the hosts are left to be asked.
func (w *World) judge() {
	v := w.newest()
	starts := make(map[execute.Attempt][]Start)
	for _, a := range w.agents {
		for _, s := range a.Starts() {
			if s.first() {
				starts[s.Attempt] = append(starts[s.Attempt], s)
			}
		}
	}
	for at, all := range starts {
		if len(all) > 1 {
			w.fault("I2: %s was started %d times: %v", at, len(all), all)
		}
	}
	if w.purging() {
		return
	}
	w.judgeLocks(v)
	w.judgeTemplates(v)
	w.judgeStepped(v)
	w.operators.mu.Lock()
	defer w.operators.mu.Unlock()
	w.judgeHistories(v, starts)
	known := 0
	for _, c := range w.operators.commands {
		known += w.judgeCommand(v, c, starts)
	}
	made := make(map[string][]*raftlogv1.Command)
	for c := range v.CommandsNewestFirst(0) {
		made[c.GetSchedule()] = append(made[c.GetSchedule()], c)
	}
	for _, s := range w.operators.schedules {
		known += w.judgeSchedule(v, s, made[s.req.GetName()], starts)
	}
	for at := range starts {
		command, _, _ := strings.Cut(at.InvocationID, ".")
		w.mu.Lock()
		lie := w.lies[command]
		w.mu.Unlock()
		if lie {
			w.fault("I5: %s was started, which a node has delivered in the name of another session", at)
		} else if _, ok := v.Invocation(at.InvocationID); !ok {
			w.fault("I1: %s was started, and the state has no such invocation", at)
		}
	}
	if known < v.CommandCount() {
		w.fault("the state has %d commands, of which operators know %d", v.CommandCount(), known)
	}
}

// judgeCommand answers how many commands it is: none, itself, or itself and its probes.
func (w *World) judgeCommand(v *fsm.View, c *command, starts map[execute.Attempt][]Start) int {
	row, there := v.Command(c.id)
	one := c // whose content stands
	if env, _ := v.Envelope(c.id); c.rival != nil && (!there || c.rival.digestHolds(env)) {
		one = c.rival
	}
	for _, other := range []*command{c, c.rival} {
		switch {
		case other == nil:
		case other.submit.acked > 0 && !there:
			w.fault("I1: %s was acknowledged and is not there", c.id)
		case other.submit.acked > 0 && other != one:
			w.fault("I8: two contents of %s were acknowledged, or the one that was not has become it", c.id)
		}
	}
	if !there {
		return 0
	}
	if one.submit.acked == 0 && one.submit.unknown == 0 {
		w.fault("I8: %s is there, and the operator was told that nothing happened", c.id)
	}
	if env, _ := v.Envelope(c.id); env != nil && !one.digestHolds(env) {
		w.fault("I1: %s has another content", c.id)
	}
	if one.submit.index != 0 && row.GetSubmittedIndex() != one.submit.index {
		w.fault("I8: %s was acknowledged at %d and stands at %d", c.id, one.submit.index, row.GetSubmittedIndex())
	}
	switch f := c.cancel; {
	case c.canceled && row.GetCancelIndex() == 0:
		w.fault("I1: the cancel of %s was acknowledged and is not there", c.id)
	case f.acked == 0 && f.unknown == 0 && row.GetCancelIndex() != 0:
		w.fault("I8: %s is canceled, and the operator was told that nothing happened", c.id)
	}
	w.judgePrograms(v, c, starts)
	n, known := 0, 1
	for i := range v.Invocations(c.id) {
		n++
		w.judgeInvocation(row, i, starts)
	}
	for _, wave := range row.GetRollout().GetWaves() {
		if probe, found := v.Command(wave.GetProbeId()); found {
			known++
			w.mu.Lock()
			w.accepted["probe"]++
			w.mu.Unlock()
			for i := range v.Invocations(probe.GetId()) {
				w.judgeInvocation(probe, i, starts)
			}
		}
	}
	if n != len(c.agents) && (!c.all || n > len(c.agents)) {
		w.fault("%s has %d invocations, it was for %d agents", c.id, n, len(c.agents))
	}
	return known
}

func (w *World) judgeInvocation(c *raftlogv1.Command, i *raftlogv1.Invocation, starts map[execute.Attempt][]Start) {
	n := len(starts[execute.Attempt{InvocationID: i.GetId(), Number: i.GetAttempt()}])
	w.judgeClaims(c, i, starts)
	state := strings.TrimPrefix(i.GetState().String(), "ATTEMPT_STATE_")
	w.mu.Lock()
	w.accepted[state]++
	w.mu.Unlock()
	bad := func(why string) {
		w.fault("%s is %s(%s) with %d starts: %s\n%v", i.GetId(), state, i.GetReason(), n, why, i)
	}
	switch i.GetState() {
	case raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, raftlogv1.AttemptState_ATTEMPT_STATE_FAILED, raftlogv1.AttemptState_ATTEMPT_STATE_TIMED_OUT:
		if placed := i.GetReason() != execute.ReasonNotPlaced; placed != (n == 1) {
			bad("I2: it ran once, or never when a file of it was not put in place")
		}
	case raftlogv1.AttemptState_ATTEMPT_STATE_EXPIRED, raftlogv1.AttemptState_ATTEMPT_STATE_SKIPPED, raftlogv1.AttemptState_ATTEMPT_STATE_REJECTED:
		if n != 0 {
			bad("I3: it never ran")
		}
	case raftlogv1.AttemptState_ATTEMPT_STATE_CANCELED:
		if i.GetFence() == 0 && n != 0 {
			bad("I6: it was canceled before it was claimed")
		}
	case raftlogv1.AttemptState_ATTEMPT_STATE_LOST:
		w.judgeLost(i, bad)
	default:
		bad("I3: it has not ended")
	}
	if c.GetCancelIndex() == 0 && c.GetAbort() == nil && i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_CANCELED {
		bad("nobody has canceled it")
	}
}

// judgeClaims wants that the attempt was claimed once, for the session that was the
// agent's then, and not after a cancel; and that it was started for that claim.
func (w *World) judgeClaims(c *raftlogv1.Command, i *raftlogv1.Invocation, starts map[execute.Attempt][]Start) {
	claims := make(map[uint32]*raftlogv1.Transition)
	for _, t := range i.GetTransitions() {
		if t.GetState() != raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED {
			continue
		}
		if claims[t.GetAttempt()] != nil {
			w.fault("I2: attempt %d of %s was claimed twice: %v", t.GetAttempt(), i.GetId(), i.GetTransitions())
		}
		claims[t.GetAttempt()] = t
		if c.GetCancelIndex() != 0 && t.GetIndex() > c.GetCancelIndex() {
			w.fault("I6: %s was canceled at %d and claimed at %d", i.GetId(), c.GetCancelIndex(), t.GetIndex())
		}
		for s := range w.sessions {
			if s.agent == i.GetAgentId() && s.epoch > t.GetSessionEpoch() && grantedAt(s.epoch) < t.GetIndex() {
				w.fault("I5: %s was claimed at %d for session %d, after session %d had begun", i.GetId(), t.GetIndex(), t.GetSessionEpoch(), s.epoch)
			}
		}
	}
	for at, all := range starts {
		if at.InvocationID != i.GetId() {
			continue
		}
		for _, s := range all {
			if claim := claims[at.Number]; claim == nil || claim.GetFence() != s.Fence {
				w.fault("I2: %s was started with fence %d, its claim is %v", at, s.Fence, claim)
			}
		}
	}
}

// grantedAt is the index of an epoch's grant.
func grantedAt(epoch uint64) uint64 { return epoch << 12 >> 20 }

// judgeLost wants a fault that explains it.
func (w *World) judgeLost(i *raftlogv1.Invocation, bad func(string)) {
	w.mu.Lock()
	w.accepted["LOST "+i.GetReason()]++
	needs, known := lostWords[i.GetReason()]
	explained := false
	for _, kind := range needs {
		explained = explained || w.effects[kind] > 0 || kind == "*" && len(w.effects) > 0
	}
	w.mu.Unlock()
	if !known || !explained {
		bad("nothing explains that it is LOST")
	}
}
