package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// rolloutView is a command with waves as agentctl shows it.
type rolloutView struct {
	commandView
	Paused *struct{ Reason, Detail string }

	Rollout struct {
		Wave, Failures int
		Waves          []struct {
			Targets               int
			ReleasedAt, SettledAt *time.Time
			ProbeID               string
			Probed                bool
		}
	}
}

func (f *fleet) rollout(ctx context.Context, id string) (rolloutView, error) {
	var c rolloutView
	err := f.json(ctx, &c, "commands", "get", id, "-o", "json", "--request-timeout", "3s")
	return c, err
}

// awaitRollout waits until the command is as it is wanted.
func (f *fleet) awaitRollout(t *testing.T, id, what string, is func(rolloutView) bool) rolloutView {
	t.Helper()
	var c rolloutView
	await(t, 40*time.Second, fmt.Sprintf("command %s %s", id, what), func() (err error) {
		if c, err = f.rollout(t.Context(), id); err == nil && !is(c) {
			err = fmt.Errorf("it is %+v", c)
		}
		return err
	})
	return c
}

// TestWavesOutliveTheirLeader kills the leader in mid-wave: the next one goes on, every
// program and every probe runs once, and no wave begins before the one before has soaked.
func TestWavesOutliveTheirLeader(t *testing.T) {
	f := newFleet(t, 5, []string{"--agent-heartbeat-interval", "200ms", "--agent-node-death-grace", "5s"}, nil)
	const soak = time.Second
	probe := strings.Join(f.argv(), " ")
	inWaves := func(id string, args ...string) []string {
		return append([]string{"run", "--detach", "--id", id, "--on", "all", "--wave", "1,3,100%", "--soak", soak.String()}, args...)
	}

	t.Run("killed in mid-wave", func(t *testing.T) {
		id := newID(t)
		if o := f.Ctl(within(t, time.Minute), inWaves(id, append([]string{"--probe", probe, "--"}, f.argv("--sleep", "2s")...)...)...); o.Err() != nil {
			t.Fatal(o.Err())
		}
		f.awaitRollout(t, id, "is in its second wave", func(c rolloutView) bool { return c.Rollout.Wave == 2 && c.Counts["running"]+c.Counts["claimed"] > 0 })
		leader, err := f.Leader(within(t, 20*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if !leader.Kill() {
			t.Fatal("the leader was not alive")
		}
		c := f.awaitRollout(t, id, "is done", func(c rolloutView) bool { return c.State == "DONE" })
		if err := leader.Start(); err != nil {
			t.Fatal(err)
		}
		if c.Counts["succeeded"] != 5 {
			t.Errorf("counts %v", c.Counts)
		}
		for _, i := range c.Invocations {
			if n := f.starts(t, i.ID); n != 1 {
				t.Errorf("%v: started %d times", i, n)
			}
		}
		for n, w := range c.Rollout.Waves {
			if w.ReleasedAt == nil || w.SettledAt == nil {
				t.Fatalf("wave %d: %+v", n+1, w)
			}
			if n > 0 && w.ReleasedAt.Sub(*c.Rollout.Waves[n-1].SettledAt) < soak {
				t.Errorf("wave %d began %v after the end of the one before", n+1, w.ReleasedAt.Sub(*c.Rollout.Waves[n-1].SettledAt))
			}
			if n == len(c.Rollout.Waves)-1 {
				continue
			}
			p, err := f.rollout(t.Context(), w.ProbeID)
			if err != nil || !w.Probed || p.Counts["succeeded"] != w.Targets {
				t.Fatalf("the probe of wave %d: %+v, %v", n+1, p, err)
			}
			for _, i := range p.Invocations {
				if starts := f.starts(t, i.ID); starts != 1 {
					t.Errorf("probe %v: started %d times", i, starts)
				}
			}
		}
		voters(t, f.Lab, len(three))
	})

	t.Run("stopped by a failure, resumed, aborted", func(t *testing.T) {
		id := newID(t)
		if o := f.Ctl(within(t, time.Minute), inWaves(id, append([]string{"--"}, f.argv("--exit", "3")...)...)...); o.Err() != nil {
			t.Fatal(o.Err())
		}
		stopped := func(failures int) func(rolloutView) bool {
			return func(c rolloutView) bool { return c.Paused != nil && c.Rollout.Failures == failures }
		}
		if c := f.awaitRollout(t, id, "is paused", stopped(1)); c.Paused.Reason != "max_failures" || c.Counts["pending"] != 4 {
			t.Errorf("paused: %+v", c)
		}
		if o := f.Ctl(within(t, 20*time.Second), "commands", "resume", id); o.Err() != nil {
			t.Fatal(o.Err())
		}
		// The second wave has two: the first to fail stops it, and the other may run by then.
		f.awaitRollout(t, id, "is paused again", func(c rolloutView) bool { return c.Paused != nil && c.Rollout.Wave == 2 })
		if o := f.Ctl(within(t, 20*time.Second), "commands", "abort", id); o.Err() != nil {
			t.Fatal(o.Err())
		}
		c := f.awaitRollout(t, id, "is done", func(c rolloutView) bool { return c.State == "DONE" })
		if c.Counts["failed"]+c.Counts["canceled"] != 5 || c.Counts["failed"] > 3 {
			t.Errorf("in the end: %+v", c)
		}
		for _, i := range c.Invocations {
			if n := f.starts(t, i.ID); (i.State == "FAILED") != (n == 1) {
				t.Errorf("%v: started %d times", i, n)
			}
		}
	})

	t.Run("a plan starts nothing", func(t *testing.T) {
		if err := f.agents[4].Stop(20 * time.Second); err != nil {
			t.Fatal(err)
		}
		f.awaitHealth(t, "a5", "LEFT")
		o := f.Ctl(within(t, 20*time.Second), "run", "--plan", "--on", "all", "--wave", "50%", "--", "true")
		if o.Err() != nil || !strings.Contains(o.Stdout, "wave 1 (50%): 2 agents: ") || !strings.Contains(o.Stdout, "skips 1 agent: a5 offline") {
			t.Errorf("%+v", o)
		}
	})
}
