package e2e

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// scheduleView is a schedule as agentctl shows it.
type scheduleView struct {
	Name, State string
	Firings     []struct{ Slot, At, Result, CommandID, Reason string }
}

// TestSchedulesFireOnceThroughALeaderKill makes schedules for the seconds in which the
// leader is killed. Each fires once, whichever node led, and its program starts once.
func TestSchedulesFireOnceThroughALeaderKill(t *testing.T) {
	f := newFleet(t, 1, nil, nil)
	begin := time.Now().Add(8 * time.Second).Truncate(time.Second)
	var names []string
	for n := range 6 {
		name := fmt.Sprintf("s%d", n)
		names = append(names, name)
		o := f.Ctl(within(t, 20*time.Second), append([]string{
			"schedule", "create", name, "--at", begin.Add(time.Duration(n) * time.Second).UTC().Format(time.RFC3339), "--on", "all", "--",
		}, f.argv()...)...)
		if o.Err() != nil {
			t.Fatal(o.Err())
		}
	}
	leader, err := f.Leader(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	kill := begin.Add(2*time.Second + 5*time.Millisecond)
	if time.Until(kill) < 0 {
		t.Fatalf("making the schedules took until %v after the kill was due", time.Since(kill))
	}
	time.Sleep(time.Until(kill)) // the moment is what is tried
	if !leader.Kill() {
		t.Fatalf("%s was not alive", leader.Name)
	}

	for _, name := range names {
		var s scheduleView
		await(t, time.Minute, "schedule "+name+" has fired and its program has ended", func() error {
			if err := f.json(t.Context(), &s, "schedule", "get", name, "-o", "json", "--request-timeout", "3s"); err != nil {
				return err
			}
			if s.State != "ended" || len(s.Firings) != 1 {
				return fmt.Errorf("it is %s with %d firings", s.State, len(s.Firings))
			}
			i, err := f.one(t.Context(), s.Firings[0].CommandID)
			if err == nil && i.State != "SUCCEEDED" {
				err = errors.New(i.String())
			}
			return err
		})
		t.Logf("%s: slot %s settled at %s", name, s.Firings[0].Slot, s.Firings[0].At)
		f.expect(t, s.Firings[0].CommandID, "SUCCEEDED", 1)
	}
	all, err := readWitnesses(f.witnesses)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != len(names) {
		t.Errorf("%d invocations were started by %d schedules: %v", len(all), len(names), all)
	}
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	voters(t, f.Lab, 3)
	if o := f.Ctl(within(t, 20*time.Second), "schedule", "run", "s0"); o.Err() != nil { // by hand, also when it has ended
		t.Fatal(o.Err())
	}
	if all, err = readWitnesses(f.witnesses); err != nil || len(all) != len(names)+1 {
		t.Errorf("%d invocations were started, want one more: %v", len(all), err)
	}
}
