package fsm

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/wave"
)

// addRollout gives some submissions waves, and rarely malformed ones.
func (g *gen) addRollout(m *raftlogv1.SubmitCommand) {
	if !g.drives && g.rarely(2) {
		return
	}
	if !g.rarely(6) {
		m.Release = uint32(len(m.AgentOrdinals))
	}
	p := &raftlogv1.RolloutPlan{
		Soak: int64(g.pick(0, 0, 0, 1, 7)) * int64(time.Second), GateHealth: g.rarely(2), GateProbe: g.rarely(2), ProbeTimeout: 1,
		Limited: !g.rarely(4), MaxFailures: uint32(g.pick(0, 0, 1, 1, 2)), OnBreach: raftlogv1.OnBreach(g.pick(0, 1, 1, 2)),
	}
	p.Strict = p.Limited && p.MaxFailures > 0 && g.rarely(2)
	if g.rarely(4) {
		p.MaxFailures, p.MaxFailuresBasisPoints = 0, uint32(g.pick(3000, 5000, 5000))
	}
	for n := range g.pick(0, 1, 1, 1, 2) {
		w := &raftlogv1.WavePlan{Count: uint32(n + 1)}
		switch {
		case g.rarely(3):
			w = &raftlogv1.WavePlan{BasisPoints: uint32(g.pick(3000, 4000) + 3000*n)}
		case g.rarely(3):
			w = &raftlogv1.WavePlan{Share: "label.x=1"}
			for _, o := range m.GetAgentOrdinals() {
				if g.rarely(2) {
					w.Members = append(w.Members, o)
				}
			}
			slices.Sort(w.Members)
		}
		p.Waves = append(p.Waves, w)
	}
	p.Waves = append(p.Waves, &raftlogv1.WavePlan{Share: "100%", BasisPoints: wave.Whole})
	if g.rarely(2) {
		for _, at := range g.random.Perm(len(m.GetAgentOrdinals())) {
			p.Ranks = append(p.Ranks, uint32(at+1))
		}
	}
	if g.rarely(12) {
		switch g.random.IntN(8) {
		case 0:
			p.Soak = -1
		case 1:
			p.ProbeTimeout = -1
		case 2:
			p.OnBreach = 3
		case 3:
			p.Waves = p.Waves[:len(p.Waves)-1]
		case 4:
			p.Strict = true
		case 5:
			p.MaxFailuresBasisPoints = 20000
		case 6:
			p.Ranks = append(p.Ranks, 1)
		default:
			p.Waves[0].Members = []uint32{3, 1}
		}
	}
	m.Rollout = p
}

// drive draws what an honest cluster does next with rollouts and their probes.
func (g *gen) drive() *raftlogv1.Mutation {
	var open []*raftlogv1.Invocation
	for i := range g.m.tables.invocations.all() {
		c, _ := g.m.View().Command(i.GetCommandId())
		if i.GetState() >= raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED && i.GetState() < raftlogv1.AttemptState_ATTEMPT_STATE_LOST && (c.GetRollout() != nil || c.GetParentId() != "") {
			open = append(open, i)
		}
	}
	switch {
	case len(g.m.tables.commands.rows.Keys()) < 2 || g.rarely(12):
		return g.submit()
	case len(open) == 0 || g.rarely(4):
		return g.rolloutMutation()
	}
	i := open[g.random.IntN(len(open))]
	s, _ := g.m.View().Session(i.GetAgentId())
	switch {
	case !live(s):
		return g.openSession(i.GetAgentId(), true)
	case s.GetState() == raftlogv1.SessionState_SESSION_STATE_OPEN:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReadySession{ReadySession: &raftlogv1.ReadySession{AgentId: i.GetAgentId(), SessionEpoch: s.GetEpoch(), NodeId: s.GetNodeId()}}}
	case g.rarely(12):
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EndSession{EndSession: &raftlogv1.EndSession{AgentId: i.GetAgentId(), SessionEpoch: s.GetEpoch(), Left: g.rarely(2), Grace: int64(g.pick(0, 1e9, 1e10))}}}
	case i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ClaimAttempt{ClaimAttempt: &raftlogv1.ClaimAttempt{
			InvocationId: i.GetId(), Attempt: i.GetAttempt(), AgentId: i.GetAgentId(), SessionEpoch: s.GetEpoch(), NodeId: s.GetNodeId(),
		}}}
	default:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReportAttempt{ReportAttempt: &raftlogv1.ReportAttempt{
			InvocationId: i.GetId(), Attempt: i.GetAttempt(), Fence: i.GetFence(), AgentId: i.GetAgentId(), SessionEpoch: s.GetEpoch(), NodeId: s.GetNodeId(),
			State: raftlogv1.AttemptState(g.pick(40, 50, 60, 60, 60, 60, 60, 60, 61, 61, 62, 64)),
		}}}
	}
}

// rolloutMutation draws what drives or stops a rollout: of a command that has one, rather
// than of any.
func (g *gen) rolloutMutation() *raftlogv1.Mutation {
	c, _ := g.m.View().Command(g.command())
	var some []*raftlogv1.Command
	for other := range g.m.View().OpenCommands() {
		if other.GetRollout() != nil {
			some = append(some, other)
		}
	}
	if len(some) > 0 && !g.rarely(8) {
		c = some[g.random.IntN(len(some))]
	}
	id := c.GetId()
	if c == nil {
		id = g.command()
	}
	switch {
	case c.GetPause() != nil && !g.rarely(3):
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ResumeCommand{ResumeCommand: &raftlogv1.ResumeCommand{CommandId: id, ExpectedPause: g.near(c.GetPause().GetNumber()), ResumedBy: "r"}}}
	case g.rarely(9):
		if g.rarely(3) {
			for probe := range g.m.View().OpenCommands() {
				if probe.GetParentId() != "" {
					id = probe.GetId()
				}
			}
		}
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PauseCommand{PauseCommand: &raftlogv1.PauseCommand{CommandId: id, PausedBy: "p"}}}
	case g.rarely(16):
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_AbortCommand{AbortCommand: &raftlogv1.AbortCommand{CommandId: id, AbortedBy: "a"}}}
	case g.rarely(16):
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CancelCommand{CancelCommand: &raftlogv1.CancelCommand{CommandId: id}}}
	}
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_AdvanceRollout{AdvanceRollout: &raftlogv1.AdvanceRollout{
		CommandId: id, ExpectedWave: uint32(g.near(uint64(c.GetWave()))), ExpectedReleased: uint32(g.near(uint64(c.GetReleased()))), Max: uint32(g.pick(0, 1, 2, 100, 100)),
	}}}
}

// checkRollouts says what in rollouts contradicts itself.
func checkRollouts(t *tables) error {
	for c := range t.commands.all() {
		if err := checkRolloutOf(t, c); err != nil {
			return fmt.Errorf("command %s: %w: %v", c.GetId(), err, c)
		}
	}
	return nil
}

func checkRolloutOf(t *tables, c *raftlogv1.Command) error {
	if c.GetParentId() != "" {
		parent, found := t.commands.get(c.GetParentId())
		waves := parent.GetRollout().GetWaves()
		switch w := int(c.GetParentWave()); {
		case !found || w < 1 || w > len(waves) || waves[w-1].GetProbeId() != c.GetId() || c.GetId() != wave.ProbeID(c.GetParentId(), c.GetParentWave()):
			return fmt.Errorf("is the probe of no wave of %v", parent)
		case waves[w-1].GetProbed() != done(c):
			return fmt.Errorf("its parent says that it has ended: %v", waves[w-1].GetProbed())
		case c.GetRollout() != nil || c.GetPause() != nil || c.GetNotAfter() > parent.GetNotAfter():
			return fmt.Errorf("is a probe with a rollout, a pause, or an end after its parent's")
		}
	}
	if c.GetAbort() != nil && c.GetPause() != nil {
		return fmt.Errorf("is aborted and paused")
	}
	r := c.GetRollout()
	seen := make(map[uint32]bool)
	waiting := uint32(0)
	for i := range t.invocations.withPrefix(c.GetId() + ".") {
		switch rank := i.GetRank(); {
		case rank != 0 && (r == nil || seen[rank] || rank > r.GetSize()):
			return fmt.Errorf("rank %d of %s", rank, i.GetId())
		case rank == 0 && r != nil && i.GetState() != raftlogv1.AttemptState_ATTEMPT_STATE_SKIPPED:
			return fmt.Errorf("%s has no rank and was not skipped", i.GetId())
		case rank > waveEnd(c) && slices.ContainsFunc(i.GetTransitions(), func(s *raftlogv1.Transition) bool {
			return s.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED
		}):
			return fmt.Errorf("%s was released before its wave", i.GetId())
		case c.GetAbort() != nil && unclaimed(i):
			return fmt.Errorf("%s is %s, and its command aborted", i.GetId(), word(i.GetState()))
		default:
			seen[rank] = true
			if i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_PENDING && rank <= waveEnd(c) {
				waiting++
			}
		}
	}
	if r == nil {
		return nil
	}
	s := WaveState(c)
	switch {
	case s.Ends[len(s.Ends)-1] != r.GetSize() || !slices.IsSorted(s.Ends):
		return fmt.Errorf("waves end at %v, and %d targets are to be released", s.Ends, r.GetSize())
	case waiting != r.GetWaiting():
		return fmt.Errorf("%d wait", waiting)
	case s.Strict && s.Failures+s.Released+s.Running > s.Max && s.Failures <= s.Max:
		return fmt.Errorf("strict: %d failed and %d are in flight", s.Failures, s.Released+s.Running)
	case s.Strict && s.Failures > s.Max:
		return fmt.Errorf("strict: %d failed", s.Failures)
	case !s.Stopped && s.Breach() != "":
		return fmt.Errorf("goes on in spite of %s", s.Breach())
	case r.GetForgiven() > Failures(c) || r.GetOpened() > c.GetWave():
		return fmt.Errorf("forgives what has not happened")
	case s.Wave > 0 && s.Over() != (s.Settled != 0):
		return fmt.Errorf("settled at %d, over is %v", s.Settled, s.Over())
	}
	return nil
}

// checkPaused says whether anything of a command was claimed while it was paused.
func checkPaused(before, after *View) error {
	for c := range before.OpenCommands() {
		now, _ := after.Command(c.GetId())
		if c.GetPause() == nil || now.GetPause().GetNumber() != c.GetPause().GetNumber() {
			continue
		}
		for i := range before.Invocations(c.GetId()) {
			if j, _ := after.Invocation(i.GetId()); i.GetFence() == 0 && j.GetFence() != 0 {
				return fmt.Errorf("%s was claimed while its command is paused: %v", i.GetId(), now)
			}
		}
	}
	return nil
}

// TestHistoriesReachEveryBrake sees that the random histories in which rollouts are
// judged hold what there is to be judged.
func TestHistoriesReachEveryBrake(t *testing.T) {
	seen := make(map[string]int)
	const histories = 600
	for seed := range histories {
		g := rapid.Custom(history).Example(seed)
		for c := range g.m.View().t.commands.all() {
			if c.GetParentId() != "" {
				seen[fmt.Sprintf("probe done %v", done(c))]++
			}
			if c.GetAbort() != nil {
				seen["abort "+c.GetAbort().GetReason()]++
			}
			if c.GetPause() != nil {
				seen["pause "+c.GetPause().GetReason()]++
			}
			if c.GetResumedNumber() != 0 {
				seen["resumed"]++
			}
			if c.GetRollout().GetOpened() > 0 {
				seen["gate opened"]++
			}
			if c.GetRollout().GetForgiven() > 0 {
				seen["forgiven"]++
			}
			seen[fmt.Sprintf("wave %d of %d", c.GetWave(), len(c.GetRollout().GetWaves()))]++
		}
		for _, s := range g.steps {
			for _, o := range s.outcomes {
				seen[o.GetReason()]++
			}
		}
	}
	for _, what := range []string{
		"probe done true", "probe done false", "probing", "gate_health", "resumed", "forgiven", "gate opened", "reconnecting", "paused",
		"pause operator", "pause max_failures", "pause strict", "pause gate_probe",
		"abort operator", "abort max_failures", "abort strict", "abort gate_health", "abort gate_probe",
		"wave 1 of 1", "wave 2 of 2", "wave 1 of 3", "wave 2 of 3", "wave 3 of 3", "wave_moved", "pause_moved", "not_due", "has_waves", "is_probe",
	} {
		if seen[what] == 0 {
			t.Errorf("%d histories have never reached %q", histories, what)
		}
	}
	t.Log(seen)
}

// TestSnapshotsWithLooseWavesAreRefused spoils rows that refer to each other: whoever
// applies entries to them would stop in the middle of one.
func TestSnapshotsWithLooseWavesAreRefused(t *testing.T) {
	command := commandID(storyBegin, "c")
	probe := wave.ProbeID(command, 1)
	build := func() *Machine {
		m := full(t)
		mut := submitTo(command, 1, 3)
		mut.GetSubmitCommand().Release = 2
		mut.GetSubmitCommand().Rollout = &raftlogv1.RolloutPlan{GateProbe: true, ProbeTimeout: 1, Waves: []*raftlogv1.WavePlan{{Count: 1}, {BasisPoints: wave.Whole}}}
		enrolled(t, m, "web-3", 4)
		apply(t, m, mut)
		apply(t, m, claimOf(m, command, 1))
		apply(t, m, reportOf(m, command, 1, raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED))
		apply(t, m, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_AdvanceRollout{AdvanceRollout: &raftlogv1.AdvanceRollout{CommandId: command, ExpectedWave: 1, ExpectedReleased: 1, Max: 9}}})
		return m
	}
	for name, spoil := range map[string]func(*tables){
		"":                         func(*tables) {},
		"a wave that is not there": func(t *tables) { editRow(t, command, func(c *raftlogv1.Command) { c.Wave = 3 }) },
		"no wave at all":           func(t *tables) { editRow(t, command, func(c *raftlogv1.Command) { c.Rollout.Waves = nil }) },
		"a probe without a parent": func(t *tables) { editRow(t, probe, func(c *raftlogv1.Command) { c.ParentId = probe }) },
		"a probe of another wave":  func(t *tables) { editRow(t, probe, func(c *raftlogv1.Command) { c.ParentWave = 2 }) },
		"a probe nobody knows":     func(t *tables) { editRow(t, command, func(c *raftlogv1.Command) { c.Rollout.Waves[0].ProbeId = "" }) },
	} {
		m := build()
		spoil(m.tables)
		v := &View{t: m.tables.published()}
		if _, err := ReadSnapshot(bytes.NewReader(written(t, v))); (err == nil) != (name == "") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func editRow(t *tables, id string, edit func(*raftlogv1.Command)) {
	have, _ := t.commands.get(id)
	c := clone(have)
	edit(c)
	t.commands.put(c)
}
