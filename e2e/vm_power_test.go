package e2e

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// guestLosesPower cuts the guest's power again and again under a stream of commands: moments
// after a program has begun, at any time, and while the guest starts. What was not flushed
// is gone each time. All is judged as in TestAnyNodeAnyDeath, but that what ran at a cut is
// LOST.
func guestLosesPower(t *testing.T, k *guestKit) {
	cuts := 15
	if asked := os.Getenv(guestCutsVar); asked != "" {
		var err error
		if cuts, err = strconv.Atoi(asked); err != nil {
			t.Fatalf("%s: %v", guestCutsVar, err)
		}
	}
	seed := chaosSeed(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	// A guest that starts again is back before its silence counts.
	f, g := guestFleet(t, k, []string{"--agent-heartbeat-interval", "1s", "--agent-heartbeat-misses", "60"}, nil)
	s := newStream(t, f)
	s.working.Go(func() { s.submitToGuest(t, rand.New(rand.NewPCG(seed, 1))) })
	stop := sync.OnceFunc(s.finish)
	defer stop()

	h := history{least: 2 * cuts, leastPart: 0.3}
	gone := 0
	for n := range cuts {
		kind := "power cut after a start"
		switch chance := rng.IntN(20); {
		case n > 0 && chance < 4:
			kind = "power cut while it starts"
			time.Sleep(time.Duration(2000+rng.IntN(8000)) * time.Millisecond) // the moments are the test's input
		case chance < 9:
			kind = "power cut"
			g.must(t, "true")
			time.Sleep(time.Duration(rng.IntN(6000)) * time.Millisecond)
		default:
			for range 1 + rng.IntN(12) {
				select {
				case <-g.started:
				case <-time.After(time.Minute):
					v, err := f.agentView(t.Context(), "guest")
					t.Fatalf("no program begins for a minute; %+v, %v", v, err)
				}
			}
			time.Sleep(time.Duration(rng.IntN(500)) * time.Millisecond)
		}
		volatile := kind != "power cut while it starts"
		if volatile {
			g.must(t, fmt.Sprintf("echo %d > /data/not-synced", n))
		}
		cut := agentDeath{agent: "guest", at: time.Now()}
		h.faults = append(h.faults, fault{kind: kind, live: g.cut(), at: cut.at})
		h.deaths = append(h.deaths, cut)
		t.Logf("cut %d: %s; %d commands are acknowledged", n+1, kind, s.acks.Load())
		if err := g.power(); err != nil {
			t.Fatal(err)
		}
		if volatile {
			if found := g.must(t, "cat /data/not-synced 2>/dev/null || true"); found != strconv.Itoa(n) {
				gone++
			}
		}
	}
	f.awaitGuest(t)
	stop()
	h.submissions, h.oddities = s.submissions, s.oddities
	readHistory(t, s, &h)
	ends := make(map[string]int)
	for _, c := range h.commands {
		for _, i := range c.invocations {
			ends[strings.TrimSuffix(i.state+"("+i.reason+")", "(exit)")]++
		}
	}
	for _, end := range slices.Sorted(maps.Keys(ends)) {
		t.Logf("%5d %s", ends[end], end)
	}
	t.Logf("%d programs were started; %d times what was not synced was gone", len(h.starts), gone)
	for _, w := range judge(h) {
		t.Error(w)
	}
	// Only the power was cut, and what stood before a supervisor had begun may say so.
	for end := range ends {
		if strings.HasPrefix(end, "LOST(") && end != "LOST(reboot)" && end != "LOST(agent_restart)" {
			t.Errorf("%d are %s, of a host whose power was cut", ends[end], end)
		}
	}
	if ends["LOST(reboot)"] == 0 || gone == 0 {
		t.Errorf("void: no cut met a program, or none lost what was not flushed: %v, %d", ends, gone)
	}
}

// submitToGuest submits about as much as a guest can do that is emulated and away half
// of the time.
func (s *stream) submitToGuest(t *testing.T, rng *rand.Rand) {
	c, err := s.client(rng.IntN(len(s.f.addresses)))
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	for s.pause(time.Duration(500+rng.IntN(1000)) * time.Millisecond) {
		s.submit(agentplanev1.NewCommandServiceClient(c), rng)
	}
}
