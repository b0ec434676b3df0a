package fsm

import (
	"fmt"
	"slices"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/wave"
)

// twinBrake is what stops a command of the model.
type twinBrake struct {
	pause, resumed uint64 // numbers
	why            string // of the pause
	aborted        bool
	parent         string
	parentWave     int
}

func (b *twinBrake) stopped() bool { return b.pause != 0 || b.aborted }

// twinRollout counts everything anew each time, from the attempts.
type twinRollout struct {
	ends             []int
	wave             int
	soak             int64
	health, probe    bool
	limited, strict  bool
	max              int
	aborts           bool
	forgiven, opened int
	settled          map[int]int64
	probeOf          map[int]string
	probed           map[int]bool
}

func isOnline(v *View, a *raftlogv1.Agent) bool {
	s, _ := v.Session(a.GetId())
	return s.GetState() >= raftlogv1.SessionState_SESSION_STATE_OPEN && s.GetState() <= raftlogv1.SessionState_SESSION_STATE_RECONNECTING &&
		a.GetQuarantine() == 0
}

// begin puts the targets of a submission, of which some are skipped, into waves, and
// releases the first.
func (w *twin) begin(now int64, c *twinCommand, m *raftlogv1.SubmitCommand, all []*twinAttempt) {
	p := m.GetRollout()
	r := &twinRollout{
		soak: p.GetSoak(), health: p.GetGateHealth(), probe: p.GetGateProbe(), limited: p.GetLimited(), strict: p.GetStrict(), max: int(p.GetMaxFailures()),
		aborts: p.GetOnBreach() == raftlogv1.OnBreach_ON_BREACH_ABORT, settled: make(map[int]int64), probeOf: make(map[int]string), probed: make(map[int]bool),
	}
	c.rollout = r
	inOrder := slices.Clone(all)
	if len(p.GetRanks()) > 0 {
		for n, rank := range p.GetRanks() {
			inOrder[rank-1] = all[n]
		}
	}
	inOrder = slices.DeleteFunc(inOrder, func(x *twinAttempt) bool { return x.state == skipped })
	size, rank := len(inOrder), 0
	if p.GetMaxFailuresBasisPoints() > 0 {
		r.max = size * int(p.GetMaxFailuresBasisPoints()) / 10000
		if m.GetRerunOf() != "" && r.strict {
			r.max = max(r.max, 1)
		}
	}
	for _, wv := range p.GetWaves() {
		want := int(wv.GetCount())
		if bp := int(wv.GetBasisPoints()); bp > 0 {
			for want = 0; want*10000 < size*bp; want++ {
			}
		}
		byLabel := want == 0 && wv.GetBasisPoints() == 0
		for _, x := range inOrder {
			if x.rank == 0 && (byLabel && slices.Contains(wv.GetMembers(), x.ordinal) || !byLabel && rank < want) {
				rank++
				x.rank = uint32(rank)
			}
		}
		r.ends = append(r.ends, rank)
	}
	if m.GetNotBefore() > now || m.GetRelease() == 0 || size == 0 {
		return
	}
	r.wave = 1
	for r.ends[r.wave-1] == 0 {
		r.wave++
	}
	most := min(r.ends[r.wave-1], int(m.GetRelease()))
	if r.strict {
		most = min(most, r.max)
	}
	for _, x := range inOrder {
		if int(x.rank) <= most {
			x.state, x.released = released, now
			c.released++
		}
	}
}

func (w *twin) tally(command string) map[raftlogv1.AttemptState]int {
	n := make(map[raftlogv1.AttemptState]int)
	for _, a := range w.of(command) {
		n[a.state]++
	}
	return n
}

func (w *twin) failures(command string) int {
	n := w.tally(command)
	return n[lost] + n[raftlogv1.AttemptState_ATTEMPT_STATE_FAILED] + n[raftlogv1.AttemptState_ATTEMPT_STATE_TIMED_OUT]
}

// waiting are the PENDING attempts of the waves so far.
func (w *twin) waiting(command string) (all []*twinAttempt) {
	r := w.commands[command].rollout
	for _, a := range w.of(command) {
		if r.wave > 0 && a.state == pending && int(a.rank) <= r.ends[r.wave-1] {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, func(a, b *twinAttempt) int { return int(a.rank) - int(b.rank) })
	return all
}

func (w *twin) openProbe(c *twinCommand) string {
	if r := c.rollout; r != nil && r.probeOf[r.wave] != "" && !r.probed[r.wave] {
		return r.probeOf[r.wave]
	}
	return ""
}

func (w *twin) probesOf(c *twinCommand) (all []string) {
	if c.rollout != nil {
		for _, id := range c.rollout.probeOf {
			all = append(all, id)
		}
	}
	return all
}

// frozen says that nothing of the command may be claimed.
func (w *twin) frozen(c *twinCommand) bool {
	if c.parent != "" {
		p := w.commands[c.parent]
		return p.stopped() || p.canceled || w.done(c.parent)
	}
	return c.pause != 0
}

func (w *twin) breach(number uint64, id, why string) {
	c := w.commands[id]
	if c.rollout.aborts {
		w.abort(id)
		return
	}
	c.pause, c.why = number, why
}

func (w *twin) abort(id string) {
	c := w.commands[id]
	c.aborted, c.pause, c.why = true, 0, ""
	for _, a := range w.of(id) {
		if a.state == pending || a.state == released {
			a.state = canceled
		}
	}
}

// judge looks at everything after a mutation.
func (w *twin) judge(now int64, number uint64) {
	for id, c := range w.commands {
		if c.parent == "" || c.ended || !w.done(id) {
			continue
		}
		c.ended = true
		p := w.commands[c.parent]
		p.rollout.probed[c.parentWave] = true
		if w.tally(id)[raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED] < len(w.of(id)) && !p.canceled && !p.aborted && !w.done(c.parent) {
			w.breach(number, c.parent, "gate_probe")
		}
	}
	for id, c := range w.commands {
		r := c.rollout
		if r == nil {
			continue
		}
		r.forgiven = min(r.forgiven, w.failures(id))
		n, failed := w.tally(id), w.failures(id)-r.forgiven
		if r.limited && !c.aborted && !c.canceled && (c.pause == 0 || c.why == "operator") && n[pending]+n[released] > 0 {
			if failed > r.max {
				w.breach(number, id, "max_failures")
			} else if r.strict && failed == r.max && n[pending] > 0 {
				w.breach(number, id, "strict")
			}
		}
		n = w.tally(id)
		if r.wave > 0 && r.settled[r.wave] == 0 && len(w.waiting(id))+n[released]+n[claimedS]+n[running] == 0 {
			r.settled[r.wave] = now
		}
	}
}

func (w *twin) advance(before *View, now int64, _ uint64, m *raftlogv1.AdvanceRollout) raftlogv1.Code {
	id := m.GetCommandId()
	c, found := w.commands[id]
	switch {
	case !found:
		return raftlogv1.Code_CODE_NOT_FOUND
	case c.rollout == nil:
		return raftlogv1.Code_CODE_REFUSED
	case c.rollout.wave != int(m.GetExpectedWave()) || c.released != m.GetExpectedReleased():
		return raftlogv1.Code_CODE_STALE
	case c.canceled, w.done(id), c.stopped(), now >= c.notAfter, now < c.notBefore:
		return raftlogv1.Code_CODE_REFUSED
	}
	r, n := c.rollout, w.tally(id)
	allowed := n[pending]
	if r.strict {
		allowed = max(0, r.max-(w.failures(id)-r.forgiven)-n[released]-n[claimedS]-n[running])
	}
	if waiting := len(w.waiting(id)); waiting > 0 {
		return w.releaseWave(before, now, c, id, r.wave, min(waiting, allowed), int(m.GetMax()))
	}
	next, end := r.wave, 0
	if r.wave > 0 {
		end = r.ends[r.wave-1]
	}
	for next < len(r.ends) && r.ends[next] == end {
		next++
	}
	if next++; next > len(r.ends) {
		return raftlogv1.Code_CODE_REFUSED
	}
	most := min(r.ends[next-1]-end, allowed)
	if r.wave == 0 {
		return w.releaseWave(before, now, c, id, next, most, int(m.GetMax()))
	}
	if r.settled[r.wave] == 0 || w.openProbe(c) != "" || now < r.settled[r.wave]+r.soak {
		return raftlogv1.Code_CODE_REFUSED
	}
	if r.opened < r.wave {
		if code, shut := w.gates(before, now, c, id); shut {
			return code
		}
	}
	w.releaseWave(before, now, c, id, next, most, int(m.GetMax()))
	return raftlogv1.Code_CODE_OK
}

// gates asks the gates behind the wave at hand, and says whether one of them is shut.
func (w *twin) gates(before *View, now int64, c *twinCommand, id string) (code raftlogv1.Code, shut bool) {
	r := c.rollout
	from := 0
	if r.wave > 1 {
		from = r.ends[r.wave-2]
	}
	var sick, coming bool
	var probes []*twinAttempt
	for _, a := range w.of(id) {
		agent, enrolled := before.Agent(a.agent)
		if a.state != raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED || !enrolled {
			continue
		}
		s, _ := before.Session(a.agent)
		sick = sick || !isOnline(before, agent)
		coming = coming || s.GetState() == raftlogv1.SessionState_SESSION_STATE_RECONNECTING
		if int(a.rank) > from {
			x := &twinAttempt{agent: a.agent, ordinal: a.ordinal, n: 1, state: released, released: now}
			if !isOnline(before, agent) {
				x.state = skipped
			}
			probes = append(probes, x)
		}
	}
	switch {
	case r.health && sick:
		w.breach(wnumber(before), id, "gate_health")
		return raftlogv1.Code_CODE_OK, true
	case r.health && coming:
		return raftlogv1.Code_CODE_REFUSED, true
	case !r.probe || r.probed[r.wave] || len(probes) == 0:
		return 0, false
	}
	probe := wave.ProbeID(id, uint32(r.wave))
	p := &twinCommand{digest: c.digest, notAfter: c.notAfter, tries: 1, twinBrake: twinBrake{parent: id, parentWave: r.wave}}
	w.commands[probe], r.probeOf[r.wave] = p, probe
	for _, x := range probes {
		x.id, x.command = InvocationID(probe, x.ordinal), probe
		if x.state == released {
			p.released++
		}
		w.attempts = append(w.attempts, x)
	}
	return raftlogv1.Code_CODE_OK, true
}

// wnumber is the number of the mutation after the state.
func wnumber(before *View) uint64 { return raftlogv1.Number(1, before.Index()+1, 0) }

func (w *twin) releaseWave(before *View, now int64, c *twinCommand, id string, to, most, budget int) raftlogv1.Code {
	if most == 0 && c.rollout.wave == to || most == 0 && c.rollout.wave == 0 {
		return raftlogv1.Code_CODE_REFUSED
	}
	c.rollout.wave = to
	for _, a := range w.waiting(id) {
		if budget == 0 || most == 0 {
			break
		}
		budget--
		agent, _ := before.Agent(a.agent)
		if !c.queued && !isOnline(before, agent) {
			a.state = skipped
			continue
		}
		a.state, a.released = released, now
		c.released++
		most--
	}
	return raftlogv1.Code_CODE_OK
}

// unreachable skips what the agent has not claimed of rollouts and probes.
func (w *twin) unreachable(before *View, agentID string) {
	agent, _ := before.Agent(agentID)
	for _, a := range w.attempts {
		c := w.commands[a.command]
		if a.ordinal == agent.GetOrdinal() && a.state == released && !c.queued && (c.rollout != nil || c.parent != "") {
			a.state = skipped
		}
	}
}

func (w *twin) pause(number uint64, m *raftlogv1.PauseCommand) raftlogv1.Code {
	c, found := w.commands[m.GetCommandId()]
	switch {
	case !found:
		return raftlogv1.Code_CODE_NOT_FOUND
	case c.parent != "":
		return raftlogv1.Code_CODE_REFUSED
	case c.pause != 0:
		return raftlogv1.Code_CODE_OK
	case c.canceled, c.aborted, w.done(m.GetCommandId()):
		return raftlogv1.Code_CODE_REFUSED
	}
	c.pause, c.why = number, "operator"
	return raftlogv1.Code_CODE_OK
}

func (w *twin) resume(m *raftlogv1.ResumeCommand) raftlogv1.Code {
	id := m.GetCommandId()
	c, found := w.commands[id]
	switch {
	case !found:
		return raftlogv1.Code_CODE_NOT_FOUND
	case c.parent != "":
		return raftlogv1.Code_CODE_REFUSED
	case c.resumed != 0 && c.resumed == m.GetExpectedPause():
		return raftlogv1.Code_CODE_OK
	case c.pause == 0:
		return raftlogv1.Code_CODE_REFUSED
	case c.pause != m.GetExpectedPause():
		return raftlogv1.Code_CODE_STALE
	case c.canceled, w.done(id):
		return raftlogv1.Code_CODE_REFUSED
	}
	switch c.why {
	case "max_failures", "strict":
		c.rollout.forgiven = w.failures(id)
	case "gate_health", "gate_probe":
		c.rollout.opened = c.rollout.wave
	}
	c.resumed, c.pause, c.why = c.pause, 0, ""
	return raftlogv1.Code_CODE_OK
}

func (w *twin) abortCommand(m *raftlogv1.AbortCommand) raftlogv1.Code {
	id := m.GetCommandId()
	c, found := w.commands[id]
	switch {
	case !found:
		return raftlogv1.Code_CODE_NOT_FOUND
	case c.parent != "":
		return raftlogv1.Code_CODE_REFUSED
	case c.canceled, c.aborted, w.done(id):
		return raftlogv1.Code_CODE_OK
	}
	probe := w.openProbe(c)
	w.abort(id)
	if probe != "" {
		w.abort(probe)
	}
	return raftlogv1.Code_CODE_OK
}

// compare says where the row differs in what stops it and how far it is.
func (c *twinCommand) compare(have *raftlogv1.Command) error {
	if have.GetPause().GetNumber() != c.pause || have.GetPause().GetReason() != c.why || (have.GetAbort() != nil) != c.aborted || have.GetParentId() != c.parent {
		return fmt.Errorf("paused, aborted or parent")
	}
	r := c.rollout
	if r == nil {
		if have.GetRollout() != nil {
			return fmt.Errorf("it has no waves")
		}
		return nil
	}
	if int(have.GetWave()) != r.wave || int(have.GetRollout().GetForgiven()) != r.forgiven || int(have.GetRollout().GetOpened()) != r.opened {
		return fmt.Errorf("wave, forgiven or opened")
	}
	for n, wv := range have.GetRollout().GetWaves() {
		if wv.GetOpenedBy() != "" && n >= r.opened {
			return fmt.Errorf("wave %d was opened", n+1)
		}
		if int(wv.GetEnd()) != r.ends[n] || wv.GetSettledAt() != r.settled[n+1] || wv.GetProbeId() != r.probeOf[n+1] || wv.GetProbed() != r.probed[n+1] {
			return fmt.Errorf("wave %d", n+1)
		}
	}
	return nil
}
