package e2e

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

// guestReboots has the middle one of three steps start the host anew, after it has announced
// it: in good order, and without so much as a sync.
func guestReboots(t *testing.T, k *guestKit) {
	f, g := guestFleet(t, k, nil, nil)
	for _, c := range []struct{ name, how string }{
		{"in order", "reboot -f"},
		{"at once", "sleep 3; echo 1 > /proc/sys/kernel/sysrq; echo b > /proc/sysrq-trigger"},
	} {
		t.Run(c.name, func(t *testing.T) {
			boot := g.bootID(t)
			step := func(name, more string) string {
				return name + "=" + strings.Join(f.argv(), " ") + "; echo " + name + " prints; " + more
			}
			id := newID(t)
			o := f.Ctl(within(t, 3*time.Minute), "run", "--id", id, "--on", "all",
				"--step", step("drain", "true"), "--step", step("reboot", `touch "$AGENTPLANE_REBOOT"; `+c.how+"; sleep 60; exit 9"), "--step", step("check", "true"))
			if o.Code != 0 {
				t.Errorf("%+v", o)
			}
			i := f.awaitState(t, id, "SUCCEEDED")
			if i.Attempt != 1 {
				t.Errorf("it is attempt %d", i.Attempt)
			}
			if n := f.starts(t, i.ID); n != 3 {
				t.Errorf("programs were started %d times, want each step once", n)
			}
			if now := g.bootID(t); now == boot {
				t.Errorf("the host was not started anew: its boot id still is %s", now)
			}
			o = f.Ctl(within(t, 20*time.Second), "why", id, "guest")
			for _, want := range []string{`1 drain +SUCCEEDED +0 +exit`, `2 reboot +SUCCEEDED +0 +rebooted`, `3 check +SUCCEEDED +0 +exit`} {
				if !regexp.MustCompile(want).MatchString(o.Stdout) {
					t.Errorf("why does not say %q:\n%s%s", want, o.Stdout, o.Stderr)
				}
			}
			o = f.Ctl(within(t, 20*time.Second), "commands", "output", id, "guest")
			if want := "drain prints\nreboot prints\ncheck prints\n"; strings.ReplaceAll(o.Stdout, "started "+i.ID+"\n", "") != want {
				t.Errorf("output is %q %s, want %q with what the programs say", o.Stdout, o.Stderr, want)
			}
		})
	}
	t.Run("not announced", func(t *testing.T) {
		id := f.detach(t, "guest", nil, []string{"sh", "-c", strings.Join(f.argv(), " ") + "; reboot -f; sleep 60"})
		f.awaitGuestEnd(t, id, "LOST", "reboot", 1)
		id, o := f.run(t, "guest", nil, f.argv())
		if o.Code != 0 {
			t.Errorf("%+v", o)
		}
		f.expect(t, id, "SUCCEEDED", 1)
	})
}

// awaitGuestEnd waits, as long as a guest takes to start, until the command's only invocation
// is in the state for the reason, and counts its starts.
func (f *fleet) awaitGuestEnd(t *testing.T, id, state, reason string, starts int) invocationView {
	t.Helper()
	var i invocationView
	await(t, 2*time.Minute, "command "+id+" is "+state, func() (err error) {
		if i, err = f.one(t.Context(), id); err == nil && i.State != state {
			err = printedError(i.String())
		}
		return err
	})
	if i.Reason != reason {
		t.Errorf("%v, want reason %q", i, reason)
	}
	if n := f.starts(t, i.ID); n != starts {
		t.Errorf("%v: started %d times, want %d", i, n, starts)
	}
	return i
}
