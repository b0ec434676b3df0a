package rollout

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func TestNextStep(t *testing.T) {
	const second = int64(time.Second)
	command := func(state raftlogv1.CommandState, counts ...*raftlogv1.StateCount) *raftlogv1.Command {
		return &raftlogv1.Command{State: state, NotBefore: 100 * second, NotAfter: 200 * second, Counts: counts}
	}
	n := func(s raftlogv1.AttemptState, n uint32) *raftlogv1.StateCount {
		return &raftlogv1.StateCount{State: s, Count: n}
	}
	const (
		active    = raftlogv1.CommandState_COMMAND_STATE_ACTIVE
		canceling = raftlogv1.CommandState_COMMAND_STATE_CANCELING
		done      = raftlogv1.CommandState_COMMAND_STATE_DONE
	)
	for _, c := range []struct {
		name string
		c    *raftlogv1.Command
		now  int64
		want Step
	}{
		{"nothing before its time", command(active, n(pending, 3)), 40, Step{Wait: 60 * time.Second}},
		{"all in one wave", command(active, n(pending, 3), n(released, 2)), 100, Step{Release: 3, Wave: 1}},
		{"what is released may expire", command(active, n(released, 2), n(runs, 1)), 150, Step{Wait: 50 * time.Second}},
		{"what is not claimed expires", command(active, n(pending, 3), n(released, 2), n(claimed, 7)), 200, Step{Expire: 5}},
		{"what is claimed does not", command(active, n(claimed, 2), n(runs, 1)), 300, Step{}},
		{"a canceled one releases nothing", command(canceling, n(pending, 1)), 150, Step{Wait: 50 * time.Second}},
		{"a done one needs nothing", command(done, n(succeeded, 1)), 300, Step{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, NextStep(c.c, c.now*second)); diff != "" {
				t.Errorf("NextStep (-want +got):\n%s", diff)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	p := Patience{15 * time.Minute}
	const (
		s = time.Second
		m = time.Minute
		h = time.Hour
	)
	for _, c := range []struct {
		name string
		a    Attempt
		lost string
		wait time.Duration
	}{
		{"a live agent has its time and a minute", Attempt{State: runs, Allowed: 10 * m, Age: m, Live: true, For: h}, "", 10 * m},
		{"then it is asked", Attempt{State: runs, Allowed: 10 * m, Age: 11 * m, Live: true, For: h}, "", 15 * m},
		{"and given up when it does not answer", Attempt{State: runs, Allowed: 10 * m, Age: 26 * m, Live: true, For: h, Overdue: 15 * m}, NoAnswer, 0},
		{"a new leader waits for the answer anew", Attempt{State: runs, Allowed: 10 * m, Age: 48 * h, Live: true, For: 14 * m, Overdue: 14 * m}, "", m},
		{"an agent that came back has time to answer", Attempt{State: runs, Allowed: 10 * m, Age: h, Live: true, For: 5 * m, Overdue: 40 * m}, "", 5 * m},
		{"but not for ever", Attempt{State: runs, Allowed: 10 * m, Age: h, Live: true, For: s, Overdue: 45 * m}, NoAnswer, 0},
		{"nor when it is away at that moment", Attempt{State: runs, Allowed: 10 * m, Age: h, For: s, Overdue: 45 * m}, NoContact, 0},
		{"without contact the floor counts", Attempt{State: runs, Allowed: m, Age: 20 * m, For: 14 * m, Overdue: 13 * m}, "", m},
		{"and ends it", Attempt{State: runs, Allowed: m, Age: 20 * m, For: 15 * m, Overdue: 13 * m}, NoContact, 0},
		{"a long program has the rest of its time", Attempt{State: runs, Allowed: 2 * h, Age: 100 * m, For: 40 * m}, "", 20 * m},
		{"which ends", Attempt{State: runs, Allowed: 2 * h, Age: 2 * h, For: h}, NoContact, 0},
		{"a claimed one may begin when contact is lost", Attempt{State: claimed, Allowed: 2 * h, Age: 100 * m, For: 40 * m}, "", 21 * m},
		{"and has all its time from there", Attempt{State: claimed, Allowed: 2 * h, Age: 130 * m, For: 119 * m, Overdue: 9 * m}, "", m},
		{"a new leader after a weekend of darkness counts anew", Attempt{State: runs, Allowed: 10 * m, Age: 48 * h, For: s, Overdue: s}, "", 15*m - s},
		{"a clock that lags ends nothing", Attempt{State: runs, Allowed: 10 * m, Age: -h, Live: true, For: h}, "", h + 11*m},
	} {
		t.Run(c.name, func(t *testing.T) {
			if lost, wait := p.Judge(c.a); lost != c.lost || wait != c.wait {
				t.Errorf("Judge = %q %v, want %q %v", lost, wait, c.lost, c.wait)
			}
		})
	}
}

// Nobody is given up before LostAfter was seen, nor before the program's time is over.
func TestJudgeIsNeverEarly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := func(name string) time.Duration {
			return time.Duration(rapid.Int64Range(0, int64(100*time.Hour)).Draw(t, name))
		}
		p := Patience{d("lost after") + 1}
		a := Attempt{
			State:   rapid.SampledFrom([]raftlogv1.AttemptState{claimed, runs}).Draw(t, "state"),
			Allowed: d("allowed"), Age: d("age"), Live: rapid.Bool().Draw(t, "live"), For: d("for"), Overdue: d("overdue"),
		}
		lost, wait := p.Judge(a)
		switch {
		case lost == "" && wait <= 0:
			t.Fatalf("%+v: waits %v", a, wait)
		case lost != "" && max(a.For, a.Overdue) < p.LostAfter:
			t.Fatalf("%+v: %s although nothing was seen for %v", a, lost, p.LostAfter)
		case lost != "" && a.Age < a.Allowed && a.For < a.Allowed:
			t.Fatalf("%+v: %s while its program may run", a, lost)
		}
	})
}

func TestPurge(t *testing.T) {
	now := time.Date(2030, 1, 31, 0, 0, 0, 0, time.UTC)
	command := func(name byte, age time.Duration, targets uint32, made time.Time) *raftlogv1.Command {
		id := uuid.UUID{6: 0x70, 8: 0x80, 15: name}
		for i := range 6 {
			id[i] = byte(made.UnixMilli() >> (40 - 8*i))
		}
		return &raftlogv1.Command{Id: id.String(), FinishedAt: now.Add(-age).UnixNano(), Targets: targets}
	}
	const day = 24 * time.Hour
	old := now.Add(-100 * day)
	var many []*raftlogv1.Command
	for i := range 1500 {
		many = append(many, command(byte(i), 40*day, 1, old))
	}
	for _, c := range []struct {
		name     string
		finished []*raftlogv1.Command
		excess   int
		want     string
	}{
		{"what is older goes", []*raftlogv1.Command{command(1, 31*day, 1, old), command(2, 30*day+1, 1, old), command(3, 30*day, 1, old)}, -5, "1 2"},
		{"what is too much goes, the oldest first", []*raftlogv1.Command{command(1, 3*day, 1, old), command(2, 2*day, 1, old), command(3, day, 1, old)}, 2, "1 2"},
		{"both", []*raftlogv1.Command{command(1, 40*day, 1, old), command(2, 2*day, 1, old), command(3, day, 1, old)}, 2, "1 2"},
		{"nothing", []*raftlogv1.Command{command(1, day, 1, old)}, 0, ""},
		{"an id ahead of the time stays", []*raftlogv1.Command{command(1, 3*day, 1, now.Add(time.Minute)), command(2, 3*day, 1, old)}, 2, "2"},
		{"a huge one goes alone", []*raftlogv1.Command{command(1, 40*day, 20_000, old), command(2, 40*day, 1, old)}, 0, "1"},
		{"and not with others", []*raftlogv1.Command{command(1, 40*day, 1, old), command(2, 40*day, 9_995, old), command(3, 40*day, 1, old)}, 0, "1 2"},
		{"a thousand at once", many, 0, "1000 of them"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			ids, rows := Purge(slices.Values(c.finished), now.UnixNano(), 30*day, c.excess, 10_000)
			if len(ids) > 1 && rows > 10_000 {
				t.Errorf("Purge costs %d rows, at most 10000 were allowed", rows)
			}
			for _, id := range ids {
				if got != "" {
					got += " "
				}
				got += fmt.Sprint(uuid.MustParse(id)[15])
			}
			if len(ids) >= 100 {
				got = fmt.Sprintf("%d of them", len(ids))
			}
			if got != c.want {
				t.Errorf("Purge = %q, want %q", got, c.want)
			}
		})
	}
}

func TestClock(t *testing.T) {
	var c clock
	t0 := time.Now()
	for i, step := range []struct {
		now            int64
		at             time.Duration
		cluster, awake time.Duration
		waits          bool
	}{
		{1000, 0, 1000, 0, false},
		{1000, time.Second, 1000 + time.Second, time.Second, false},
		{1000 + int64(time.Second)/2, 2 * time.Second, 1000 + time.Second/2, 2 * time.Second, false},    // it went more slowly
		{0, 3 * time.Second, 1000 + 3*time.Second/2, 3 * time.Second, false},                            // never back
		{0, time.Hour, 1000 + time.Hour - 3*time.Second/2, 3*time.Second + maxStep, false},              // asleep
		{0, time.Hour + 2*time.Second, 1000 + time.Hour + time.Second/2, 5*time.Second + maxStep, true}, // waiting for an entry
		{0, time.Hour + 4*time.Second, 1000 + time.Hour + 5*time.Second/2, 3*time.Second + 2*maxStep, true},
		{0, time.Hour + 9*time.Second, 1000 + time.Hour + 15*time.Second/2, 3*time.Second + 2*maxStep, true}, // it counts no more
		{0, time.Hour + 10*time.Second, 1000 + time.Hour + 17*time.Second/2, 4*time.Second + 2*maxStep, false},
		{0, time.Hour + 11*time.Second, 1000 + time.Hour + 19*time.Second/2, 5*time.Second + 2*maxStep, true}, // for the next one
	} {
		c.look(step.now, t0.Add(step.at), step.waits)
		if c.cluster() != int64(step.cluster) || c.awake != step.awake {
			t.Errorf("step %d: cluster %v awake %v, want %v %v", i, time.Duration(c.cluster()), c.awake, step.cluster, step.awake)
		}
	}
}

func TestAgain(t *testing.T) {
	release := &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReleaseCommand{}}
	lose := &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_LoseAttempt{LoseAttempt: &raftlogv1.LoseAttempt{}}}
	for _, c := range []struct {
		name string
		mut  *raftlogv1.Mutation
		o    *raftlogv1.Outcome
		want time.Duration
	}{
		{"there may be more", release, &raftlogv1.Outcome{Code: raftlogv1.Code_CODE_OK, Count: 3}, 0},
		{"what waits is held", release, &raftlogv1.Outcome{Code: raftlogv1.Code_CODE_OK}, holdAgain},
		{"the state has moved", release, &raftlogv1.Outcome{Code: raftlogv1.Code_CODE_STALE}, lookAgain},
		{"the feed tells the rest", lose, &raftlogv1.Outcome{Code: raftlogv1.Code_CODE_OK}, tick},
	} {
		if got := again(c.mut, c.o); got != c.want {
			t.Errorf("%s: again = %v, want %v", c.name, got, c.want)
		}
	}
}
