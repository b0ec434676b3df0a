package operator

import (
	"strconv"
	"strings"
	"testing"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

func stepsOf(names ...string) []*agentplanev1.Step {
	var all []*agentplanev1.Step
	for _, name := range names {
		all = append(all, &agentplanev1.Step{Name: name, Argv: []string{"true"}})
	}
	return all
}

func TestStepsAreChecked(t *testing.T) {
	var many []string
	for n := range MaxSteps + 1 {
		many = append(many, "s"+strconv.Itoa(n))
	}
	day := int64(24 * time.Hour)
	for name, c := range map[string]struct {
		steps  []*agentplanev1.Step
		edit   func(*agentplanev1.CommandSpec)
		reason string
		text   string
	}{
		"three":              {stepsOf("drain", "upgrade-1.2_x", "check"), nil, "", ""},
		"as many as may be":  {stepsOf(many[1:]...), nil, "", ""},
		"too many":           {stepsOf(many...), nil, "steps", "17 steps are above the maximum 16"},
		"beside a program":   {stepsOf("a"), func(s *agentplanev1.CommandSpec) { s.Argv = []string{"true"} }, "two_programs", "has steps and a program"},
		"beside a script":    {stepsOf("a"), func(s *agentplanev1.CommandSpec) { s.Script = []byte("true") }, "two_programs", "has steps and a program"},
		"without a name":     {stepsOf("a", ""), nil, "step_name", `the name "" of step 2`},
		"a name with a line": {stepsOf("a\nb"), nil, "step_name", "letters, digits and . _ -"},
		"a name of 65 bytes": {stepsOf(strings.Repeat("n", 65)), nil, "step_name", "1 to 64"},
		"a name twice":       {stepsOf("a", "b", "a"), nil, "step_name", `steps 1 and 3 have the same name "a"`},
		"nothing to run":     {[]*agentplanev1.Step{{Name: "a"}}, nil, "no_program", `step "a" has neither`},
		"two things to run":  {[]*agentplanev1.Step{{Name: "a", Argv: []string{"x"}, Script: []byte("x")}}, nil, "two_programs", `step "a" has a program and a script`},
		"a zero byte":        {[]*agentplanev1.Step{{Name: "a", Argv: []string{"x", "\x00"}}}, nil, "argv", "zero byte"},
		"a negative time":    {[]*agentplanev1.Step{{Name: "a", Argv: []string{"x"}, RunTimeout: -1}}, nil, "run_timeout", `step "a"`},
		"too long together": {
			stepsOf("a", "b", "c"), func(s *agentplanev1.CommandSpec) { s.RunTimeout = 3 * day }, "run_timeout",
			"come to 216h30m20s; at most 7d are allowed",
		},
	} {
		s := &agentplanev1.CommandSpec{Selector: "all", NotAfter: int64(time.Minute), Steps: c.steps}
		if c.edit != nil {
			c.edit(s)
		}
		switch p := check(s, 1); {
		case c.reason == "" && p != nil:
			t.Errorf("%s: %+v", name, p)
		case c.reason != "" && (p == nil || p.reason != c.reason || !strings.Contains(p.text, c.text)):
			t.Errorf("%s: %+v, want %s: %s", name, p, c.reason, c.text)
		}
	}
}

func TestTimeOfStepsIsThatOfAllOfThem(t *testing.T) {
	three := stepsOf("a", "b", "c")
	three[1].RunTimeout = int64(time.Hour)
	for _, c := range []struct {
		name string
		spec *agentplanev1.CommandSpec
		want time.Duration
	}{
		{"one program", &agentplanev1.CommandSpec{}, 10 * time.Minute},
		{"one program with its own time", &agentplanev1.CommandSpec{RunTimeout: int64(time.Minute)}, time.Minute},
		{"one step", &agentplanev1.CommandSpec{Steps: stepsOf("a")}, 10 * time.Minute},
		{"three steps", &agentplanev1.CommandSpec{Steps: three}, 10*time.Minute + time.Hour + 10*time.Minute + 2*(10*time.Second+15*time.Minute)},
		{"their own time and grace", &agentplanev1.CommandSpec{Steps: three, RunTimeout: int64(time.Minute), KillGrace: int64(time.Second)}, time.Minute + time.Hour + time.Minute + 2*(time.Second+15*time.Minute)},
	} {
		if got := allowed(c.spec); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestStepsAreSubmittedWithTheirWholeTime(t *testing.T) {
	w := newWorld(t)
	w.agent("a1", "web-1", true)
	spec := w.spec("all")
	spec.Argv, spec.Steps = nil, stepsOf("drain", "upgrade", "check")
	r := w.submit(spec)
	row, _ := w.m.View().Command(spec.CommandId)
	if r.GetSummary() != "steps: drain, upgrade, check" || time.Duration(row.GetRunTimeout()) != allowed(spec) {
		t.Errorf("command is %v, row %v", r, row)
	}
	other := w.spec("all")
	other.Argv, other.Steps = nil, stepsOf("drain", "upgrade", "check")
	other.Steps[1].Argv = []string{"false"}
	if sameProgram(w.m.View(), spec.CommandId, other) || !sameProgram(w.m.View(), spec.CommandId, spec) {
		t.Error("programs are not compared by all of their steps")
	}
	if beside(&agentplanev1.CommandSpec{Steps: spec.Steps}) != "steps" {
		t.Error("those who run templates alone may bring steps")
	}
}

func TestProblemsSayDurationsAsTheyAreTyped(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 7 * 24 * time.Hour: "7d", 100 * 24 * time.Hour: "100d", 2 * time.Hour: "2h", 36 * time.Hour: "36h", 90 * time.Minute: "1h30m",
		5 * time.Minute: "5m", 90 * time.Second: "1m30s", 10 * time.Hour: "10h", 250 * time.Millisecond: "250ms",
	} {
		if p := problemf("", "%v", d); p.text != want {
			t.Errorf("%v is written %q, want %q", d, p.text, want)
		}
	}
}
