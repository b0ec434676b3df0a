package rollout

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/wave"
)

const failed = raftlogv1.AttemptState_ATTEMPT_STATE_FAILED

// inWaves makes a submission go in waves.
func inWaves(t *testing.T, waves string, edit func(*raftlogv1.RolloutPlan)) func(*raftlogv1.SubmitCommand) {
	shares, err := wave.Parse(waves)
	if err != nil {
		t.Fatal(err)
	}
	p := &raftlogv1.RolloutPlan{}
	for _, s := range wave.Complete(shares) {
		p.Waves = append(p.Waves, &raftlogv1.WavePlan{Share: s.String(), Count: s.Count, BasisPoints: s.BasisPoints})
	}
	if edit != nil {
		edit(p)
	}
	return func(m *raftlogv1.SubmitCommand) {
		m.Rollout, m.Release, m.QueueOffline, m.Ttl = p, uint32(len(m.AgentOrdinals)), false, int64(24*time.Hour)
	}
}

// work has agents claim and end what they may, once: fate says how, and "" that an agent
// does nothing.
func (w *world) work(command string, fate func(ordinal uint32) raftlogv1.AttemptState) {
	w.t.Helper()
	for i := range w.m.View().Invocations(command) {
		state := fate(i.GetAgentOrdinal())
		switch {
		case state == 0:
		case i.GetState() == released:
			w.claim(command, i.GetAgentOrdinal())
		case i.GetState() == claimed:
			w.report(command, i.GetAgentOrdinal(), state)
		}
	}
}

func always(state raftlogv1.AttemptState) func(uint32) raftlogv1.AttemptState {
	return func(uint32) raftlogv1.AttemptState { return state }
}

func (w *world) command(id string) *raftlogv1.Command {
	c, _ := w.m.View().Command(id)
	return c
}

func TestNextStepOfRollouts(t *testing.T) {
	const second = int64(time.Second)
	n := func(s raftlogv1.AttemptState, n uint32) *raftlogv1.StateCount {
		return &raftlogv1.StateCount{State: s, Count: n}
	}
	command := func(edit func(*raftlogv1.Command), counts ...*raftlogv1.StateCount) *raftlogv1.Command {
		c := &raftlogv1.Command{
			State: raftlogv1.CommandState_COMMAND_STATE_ACTIVE, NotAfter: 200 * second, Counts: counts, Wave: 1,
			Rollout: &raftlogv1.Rollout{Size: 9, Soak: 10 * second, Waves: []*raftlogv1.Wave{{End: 3, SettledAt: 90 * second}, {End: 9}}},
		}
		if edit != nil {
			edit(c)
		}
		return c
	}
	for _, c := range []struct {
		name string
		c    *raftlogv1.Command
		now  int64
		want Step
	}{
		{"the soak is waited for", command(nil, n(pending, 6), n(succeeded, 3)), 95, Step{Wait: 5 * time.Second}},
		{"then the next wave", command(nil, n(pending, 6), n(succeeded, 3)), 100, Step{Advance: 6}},
		{"a probe is taken as a whole", command(func(c *raftlogv1.Command) { c.Rollout.GateProbe = true }, n(pending, 6), n(succeeded, 3)), 100, Step{Advance: 3, Whole: true}},
		{"one that has begun is waited for", command(func(c *raftlogv1.Command) { c.Rollout.Waves[0].ProbeId = "p" }, n(pending, 6), n(succeeded, 3)), 100, Step{Wait: 100 * time.Second}},
		{"one that has ended is not", command(func(c *raftlogv1.Command) { c.Rollout.Waves[0].ProbeId, c.Rollout.Waves[0].Probed = "p", true }, n(pending, 6), n(succeeded, 3)), 100, Step{Advance: 6}},
		{"what is in flight is waited for", command(func(c *raftlogv1.Command) { c.Rollout.Waves[0].SettledAt = 0 }, n(pending, 6), n(claimed, 1), n(succeeded, 2)), 100, Step{Wait: 100 * time.Second}},
		{"the rest of a wave", command(func(c *raftlogv1.Command) { c.Rollout.Waiting, c.Rollout.Waves[0].SettledAt = 2, 0 }, n(pending, 8), n(claimed, 1)), 100, Step{Advance: 2}},
		{"a paused one only expires", command(func(c *raftlogv1.Command) { c.Pause = &raftlogv1.Pause{Number: 1} }, n(pending, 6), n(succeeded, 3)), 199, Step{Wait: time.Second}},
		{"and does so", command(func(c *raftlogv1.Command) { c.Pause = &raftlogv1.Pause{Number: 1} }, n(pending, 6), n(succeeded, 3)), 200, Step{Expire: 6}},
		{"also without waves", command(func(c *raftlogv1.Command) { c.Pause, c.Rollout = &raftlogv1.Pause{Number: 1}, nil }, n(pending, 6)), 199, Step{Wait: time.Second}},
	} {
		if diff := cmp.Diff(c.want, NextStep(c.c, c.now*second)); diff != "" {
			t.Errorf("%s: NextStep (-want +got):\n%s", c.name, diff)
		}
	}
}

// TestWavesSurviveTheirLeader lets the leader die in mid-wave and in the soak: the next
// one goes on where the state stands, releases nobody twice, and soaks no longer.
func TestWavesSurviveTheirLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(20)
		o := w.options()
		o.ReleaseMax = 4 // so that a wave takes several entries
		stop := w.lead(o)
		begun := time.Now()
		id := w.submit(targets, inWaves(t, "1,50%", func(p *raftlogv1.RolloutPlan) { p.Soak = int64(time.Minute) }))
		w.want(id, Counts{released: 1, pending: 19})
		w.work(id, always(succeeded))
		w.work(id, always(succeeded))
		pass(30 * time.Second)
		stop()
		pass(10 * time.Second)
		w.takeOffice()
		stop = w.lead(o)
		pass(19 * time.Second)
		w.want(id, Counts{pending: 19, succeeded: 1})
		pass(2 * time.Second)
		w.want(id, Counts{released: 9, pending: 10, succeeded: 1})
		for range 3 {
			w.work(id, func(ordinal uint32) raftlogv1.AttemptState {
				if ordinal < 6 {
					return succeeded
				}
				return 0
			})
		}
		stop()
		w.takeOffice()
		stop = w.lead(o)
		defer func() { stop() }()
		pass(5 * time.Minute)
		w.want(id, Counts{released: 5, pending: 10, succeeded: 5})
		for w.command(id).GetState() != raftlogv1.CommandState_COMMAND_STATE_DONE {
			w.work(id, always(succeeded))
			pass(5 * time.Second)
			if time.Since(begun) > time.Hour {
				t.Fatalf("it does not end: %v", w.command(id))
			}
		}
		for i := range w.m.View().Invocations(id) {
			if got := len(i.GetTransitions()); got != 4 && i.GetRank() > 1 || i.GetState() != succeeded {
				t.Errorf("%s went through %v", i.GetId(), i.GetTransitions())
			}
		}
		if waves := w.command(id).GetRollout().GetWaves(); waves[2].GetReleasedAt()-waves[1].GetSettledAt() < int64(time.Minute) || waves[2].GetSettledAt() == 0 {
			t.Errorf("waves are %v", waves)
		}
	})
}

// TestFailuresStopTheBatch is salt#54521: a batch goes on although too many of it have
// failed. Here nothing starts after the report that makes them too many, also of what
// was released already, and no leader is needed for that.
func TestFailuresStopTheBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(30)
		stop := w.lead(w.options())
		defer func() { stop() }()
		id := w.submit(targets, inWaves(t, "10,100%", func(p *raftlogv1.RolloutPlan) { p.Limited, p.MaxFailures = true, 1 }))
		stop()
		for ordinal := uint32(1); ordinal <= 6; ordinal++ {
			if !w.claim(id, ordinal) {
				t.Fatalf("the claim of agent %d was refused", ordinal)
			}
		}
		w.report(id, 1, failed)
		w.report(id, 2, succeeded)
		w.report(id, 3, failed)
		if w.claim(id, 7) {
			t.Error("agent 7 has claimed after the second failure")
		}
		stop = w.lead(w.options())
		for _, ordinal := range []uint32{4, 5, 6} { // what runs is left alone
			w.report(id, ordinal, succeeded)
		}
		pass(time.Hour)
		w.want(id, Counts{failed: 2, succeeded: 4, released: 4, pending: 20})
		pause := w.command(id).GetPause()
		if pause.GetReason() != wave.MaxFailures {
			t.Fatalf("paused by %v", pause)
		}
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ResumeCommand{ResumeCommand: &raftlogv1.ResumeCommand{CommandId: id, ExpectedPause: pause.GetNumber(), ResumedBy: "ann"}}})
		for range 4 {
			w.work(id, always(succeeded))
			pass(time.Second)
		}
		w.want(id, Counts{failed: 2, succeeded: 28})
	})
}

// TestStrictIsNeverOvershot lets random agents fail, answer nothing and come late, under
// leaders that come and go: failed and in flight are never more than may fail.
func TestStrictIsNeverOvershot(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 7))
				w := newWorld(t, fsm.Options{})
				targets := w.enrol(40)
				o := w.options()
				o.LostAfter, o.ReleaseMax = time.Minute, 1+random.IntN(20)
				stop := w.lead(o)
				defer func() { stop() }()
				most := uint32(1 + random.IntN(6))
				waves := []string{"100%", "1,25%", "3,10,50%"}[random.IntN(3)]
				id := w.submit(targets, inWaves(t, waves, func(p *raftlogv1.RolloutPlan) { p.Limited, p.MaxFailures, p.Strict = true, most, true }))
				stopped := false
				for n := range 400 {
					c := w.command(id)
					counts := CountsOf(c)
					if in := counts[released] + counts[claimed] + counts[runs]; fsm.Failures(c)+in > most {
						t.Fatalf("%d failed and %d are in flight, %d may fail: %v", fsm.Failures(c), in, most, c)
					}
					if c.GetState() == raftlogv1.CommandState_COMMAND_STATE_DONE {
						return
					}
					if stopped = stopped || c.GetPause() != nil; stopped && counts[released] > 0 {
						t.Fatalf("something was released after the breach: %v", c)
					}
					w.work(id, func(uint32) raftlogv1.AttemptState {
						switch random.IntN(12) {
						case 0:
							return failed
						case 1, 2, 3:
							return succeeded
						default:
							return 0
						}
					})
					if n%50 == 49 {
						stop()
						pass(time.Duration(random.IntN(5)) * time.Second)
						w.takeOffice()
						stop = w.lead(o)
					}
					pass(time.Duration(random.IntN(20)) * time.Second)
				}
				if !stopped {
					t.Fatalf("it neither ends nor stops: %v", w.command(id))
				}
			})
		})
	}
}

// TestOfflineAgentsKeepNoRollout is bindplane-op#1354: agents that go offline keep a
// rollout from ending. Here those that have claimed nothing are skipped at once when they
// are down, and those that have are LOST within known time; the rollout goes on.
func TestOfflineAgentsKeepNoRollout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(6)
		stop := w.lead(w.options())
		defer stop()
		id := w.submit(targets, inWaves(t, "3,100%", nil))
		w.claim(id, 1)
		w.report(id, 1, succeeded)
		w.claim(id, 2)
		down := func(ordinal uint32) {
			w.end(ordinal)
			pass(2 * time.Second)
			s, _ := w.m.View().Session(agentID(ordinal))
			w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_MarkDown{MarkDown: &raftlogv1.MarkDown{AgentId: agentID(ordinal), SessionEpoch: s.GetEpoch()}}})
		}
		for _, ordinal := range []uint32{2, 3, 5} { // one that runs, one that is released, one that waits
			down(ordinal)
		}
		w.wantReason(id, 3, "offline")
		w.want(id, Counts{succeeded: 1, claimed: 1, pending: 3})
		pass(20 * time.Minute)
		w.wantReason(id, 2, NoContact)
		w.wantReason(id, 5, "offline")
		w.want(id, Counts{succeeded: 1, lost: 1, released: 2})
		w.work(id, always(succeeded))
		w.work(id, always(succeeded))
		if c := w.command(id); c.GetState() != raftlogv1.CommandState_COMMAND_STATE_DONE {
			t.Fatalf("it has not ended: %v", c)
		}
	})
}

// TestGatesBetweenWaves has a probe open one gate and agents that go down shut another;
// the probe is there once, whoever leads.
func TestGatesBetweenWaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(9)
		stop := w.lead(w.options())
		defer func() { stop() }()
		id := w.submit(targets, inWaves(t, "2,5", func(p *raftlogv1.RolloutPlan) {
			p.GateHealth, p.GateProbe, p.ProbeTimeout, p.ProbeSummary = true, true, int64(time.Minute), "true"
		}))
		finish := func(command string) {
			for range 2 {
				w.work(command, always(succeeded))
				pass(time.Second)
			}
		}
		finish(id)
		probe := wave.ProbeID(id, 1)
		w.want(id, Counts{succeeded: 2, pending: 7})
		w.want(probe, Counts{released: 2})
		stop()
		w.takeOffice()
		stop = w.lead(w.options())
		pass(time.Minute)
		w.want(id, Counts{succeeded: 2, pending: 7})
		finish(probe)
		w.want(id, Counts{succeeded: 2, released: 3, pending: 4})

		finish(id)
		w.end(1)
		pass(time.Second)
		probe = wave.ProbeID(id, 2)
		w.want(probe, Counts{released: 3})
		finish(probe)
		w.want(id, Counts{succeeded: 5, pending: 4}) // one agent is about to come back, or not
		s, _ := w.m.View().Session(agentID(1))
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_MarkDown{MarkDown: &raftlogv1.MarkDown{AgentId: agentID(1), SessionEpoch: s.GetEpoch()}}})
		pass(5 * time.Second)
		pause := w.command(id).GetPause()
		if pause.GetReason() != "gate_health" {
			t.Fatalf("paused by %v: %v", pause, w.command(id))
		}
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ResumeCommand{ResumeCommand: &raftlogv1.ResumeCommand{CommandId: id, ExpectedPause: pause.GetNumber()}}})
		synctest.Wait()
		w.want(id, Counts{succeeded: 5, released: 4})
	})
}

// TestProbesArePurgedWithTheirCommand counts them as well.
func TestProbesArePurgedWithTheirCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(2)
		o := w.options()
		o.Retain, o.RetainCount = time.Hour, 3
		stop := w.lead(o)
		defer stop()
		var ids []string
		for range 2 { // each is two commands
			id := w.submit(targets, inWaves(t, "1", func(p *raftlogv1.RolloutPlan) { p.GateProbe, p.ProbeTimeout = true, int64(time.Minute) }))
			ids = append(ids, id, wave.ProbeID(id, 1))
			for range 6 {
				w.work(id, always(succeeded))
				w.work(wave.ProbeID(id, 1), always(succeeded))
				pass(time.Second)
			}
		}
		pass(time.Minute)
		for n, id := range ids {
			if _, found := w.m.View().Command(id); found != (n >= 2) {
				t.Errorf("command %d of %v is there: %v", n, ids, found)
			}
		}
		pass(2 * time.Hour)
		if n := w.m.View().CommandCount(); n != 0 {
			t.Errorf("%d commands are left", n)
		}
	})
}

// TestAPausedCommandExpires is I3 for those that nobody resumes.
func TestAPausedCommandExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(3)
		stop := w.lead(w.options())
		defer stop()
		id := w.submit(targets, inWaves(t, "1", nil))
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PauseCommand{PauseCommand: &raftlogv1.PauseCommand{CommandId: id, PausedBy: "ann"}}})
		pass(24*time.Hour - time.Second)
		w.want(id, Counts{released: 1, pending: 2})
		pass(3 * time.Second)
		w.want(id, Counts{expired: 3})
	})
}

// TestCancelRacesTheFanOut cancels while a wave is released piece by piece and agents
// claim it (kibana#150047): what was not claimed by then never is, whichever of the
// pieces were still on their way.
func TestCancelRacesTheFanOut(t *testing.T) {
	for name, mutation := range map[string]func(id string) *raftlogv1.Mutation{
		"cancel": func(id string) *raftlogv1.Mutation {
			return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CancelCommand{CancelCommand: &raftlogv1.CancelCommand{CommandId: id}}}
		},
		"abort": func(id string) *raftlogv1.Mutation {
			return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_AbortCommand{AbortCommand: &raftlogv1.AbortCommand{CommandId: id}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, fsm.Options{})
				targets := w.enrol(60)
				o := w.options()
				o.ReleaseMax = 5
				stop := w.lead(o)
				defer stop()
				id := w.submit(targets, inWaves(t, "1,100%", nil))
				w.claim(id, 1)
				w.report(id, 1, succeeded) // the engine begins to release 59 in pieces
				racing := make(chan struct{})
				go func() {
					defer close(racing)
					for ordinal := uint32(2); ordinal <= 60; ordinal++ {
						w.claim(id, ordinal)
						if ordinal == 20 {
							w.must(mutation(id))
						}
					}
				}()
				<-racing
				pass(time.Minute)
				c := w.command(id)
				counts := CountsOf(c)
				if counts[pending]+counts[released] != 0 || counts[claimed] > 19 || counts[canceled]+counts[claimed]+1 != 60 {
					t.Fatalf("%v after %s at the twentieth claim", counts, name)
				}
				for i := range w.m.View().Invocations(id) {
					if asked := i.GetCancelIndex() != 0; asked != (name == "cancel" && i.GetState() == claimed) {
						t.Errorf("%s is %s and asked to end: %v", i.GetId(), i.GetState(), asked)
					}
				}
			})
		})
	}
}
