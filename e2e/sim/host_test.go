package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentplane/agentplane/agent/execute"
)

// paper is a journal that takes everything.
type paper struct{ finished []execute.Result }

func (*paper) Intent(execute.Spec) error { return nil }

func (p *paper) Finish(_ execute.Attempt, r execute.Result) error {
	p.finished = append(p.finished, r)
	return nil
}

func (*paper) StepIntent(execute.Attempt, execute.StepRecord) error { return nil }
func (*paper) StepFinish(execute.Attempt, execute.StepRecord) error { return nil }
func (*paper) Steps(execute.Attempt) []execute.StepRecord           { return nil }

func (*paper) Arm(execute.Attempt, execute.Guard, time.Duration) error { return nil }
func (*paper) Keep(execute.Attempt, string, bool) error                { return nil }
func (*paper) Guard(execute.Attempt) (execute.Guard, bool)             { return execute.Guard{}, false }

func TestHostKeepsTheContractOfExecute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost("a", &Trace{began: time.Now()})
		defer h.close()
		dead, j := false, &paper{}
		r := &runner{h: h, journal: j, dead: func() bool { return dead }}
		spec := execute.Spec{Attempt: execute.Attempt{InvocationID: "c.1", Number: 1}, Argv: []string{"work", "1s", "3"}}
		one, err := r.Start(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Start(t.Context(), spec); !errors.Is(err, execute.ErrExists) {
			t.Errorf("the second start gave %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if _, err := one.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait = %v before the end", err)
		}
		adopted, err := r.Adopt(spec.Attempt) // by the next life
		if err != nil {
			t.Fatal(err)
		}
		res, err := adopted.Wait(t.Context())
		if err != nil || res.State != execute.Failed || res.ExitCode != 3 || !res.Started {
			t.Errorf("Wait = %+v, %v", res, err)
		}
		unknown, _ := r.Adopt(execute.Attempt{InvocationID: "c.2", Number: 1})
		if res, err := unknown.Wait(t.Context()); err != nil || res.Reason != execute.ReasonAgentRestart || res.Started {
			t.Errorf("an intent without a directory ended as %+v, %v", res, err)
		}
		dead = true
		if _, err := r.Start(t.Context(), execute.Spec{Attempt: execute.Attempt{InvocationID: "c.3", Number: 1}, Argv: spec.Argv}); err == nil {
			t.Error("a dead agent started a program")
		}
		if n := len(h.Starts()); n != 1 || len(j.finished) != 2 {
			t.Errorf("%d starts and %d results, want 1 and 2", n, len(j.finished))
		}
	})
}

func TestShrinkKeepsWhatIsNeeded(t *testing.T) {
	all := []int{0, 1, 2, 3, 4, 5, 6, 7}
	needs := func(chosen []int) bool { return slices.Contains(chosen, 2) && slices.Contains(chosen, 5) }
	if got := Shrink(all, needs, func() bool { return false }); !slices.Equal(got, []int{2, 5}) {
		t.Errorf("Shrink = %v", got)
	}
	if got := Shrink(all, needs, func() bool { return true }); len(got) != len(all) {
		t.Errorf("Shrink went on when it was enough: %v", got)
	}
}

func TestChoiceOfFaults(t *testing.T) {
	const seed = 1
	drawn := len(Draw(seed))
	for choice, want := range map[string]string{
		"0,2": "0,2", "3, 1": "3,1", noFaults: noFaults,
		"x": "no number", "-1": "numbered from 0", "2,2": "twice", strconv.Itoa(drawn): fmt.Sprintf("draws %d faults, numbered from 0 to %d", drawn, drawn-1),
	} {
		chosen, err := Choose(seed, choice)
		if err != nil && !strings.Contains(err.Error(), want) || err == nil && Choice(chosen) != want {
			t.Errorf("Choose(%q) = %v, %v, want %s", choice, chosen, err, want)
		}
	}
	if all, err := Choose(seed, ""); err != nil || len(all) != drawn {
		t.Errorf("without a choice %v is chosen (%v), want all %d", all, err, drawn)
	}
}

func TestChosenFaultsAreLived(t *testing.T) {
	t.Parallel()
	const seed = 1
	out := live(t, seed, []int{2, 0})
	if len(out.Red) > 0 {
		t.Fatal(strings.Join(out.Red, "\n"))
	}
	for i, f := range Draw(seed) {
		if came := strings.Contains(out.Trace.String(), "fault     "+f.String()); came != (i == 0 || i == 2) {
			t.Errorf("fault %d, %s, came: %t", i, f, came)
		}
	}
}
