package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

func TestHoldupsAreToldOnceEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards what the goroutine of holdups shares with the test
		var lines []string
		asked, because, fails := 0, `all places of budget "db" are taken`, false
		h := &holdups{
			say: func(format string, args ...any) {
				mu.Lock()
				defer mu.Unlock()
				lines = append(lines, fmt.Sprintf(format, args...))
			},
			queue: func(_ context.Context, agent string) (*agentplanev1.GetQueueResponse, error) {
				mu.Lock()
				defer mu.Unlock()
				asked++
				if fails {
					return nil, errors.New("no node answers")
				}
				return &agentplanev1.GetQueueResponse{Items: []*agentplanev1.QueueItem{
					{InvocationId: "other.1", Waits: "slot", Detail: "all slots are taken"},
					{InvocationId: "c.1", Waits: "budget", Detail: because},
					{InvocationId: "c.3"},
				}}, nil
			},
		}
		view := func(states ...agentplanev1.AttemptState) *agentplanev1.Command {
			c := &agentplanev1.Command{}
			for n, s := range states {
				c.Invocations = append(c.Invocations, &agentplanev1.Invocation{Id: fmt.Sprintf("c.%d", n+1), AgentName: fmt.Sprintf("web-%d", n+1), State: s})
			}
			return c
		}
		const (
			pending  = agentplanev1.AttemptState_ATTEMPT_STATE_PENDING
			released = agentplanev1.AttemptState_ATTEMPT_STATE_RELEASED
			running  = agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING
		)
		answers := func(why string, failing bool) {
			mu.Lock()
			defer mu.Unlock()
			because, fails = why, failing
		}
		step := func(d time.Duration, want string) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if got := strings.Join(lines, "\n"); got != want {
				t.Fatalf("told %q, want %q", got, want)
			}
			lines = nil
		}
		h.begin(t.Context())
		defer h.end()
		h.take(view(running, running, pending)) // a wave holds the third back
		step(10*time.Second, "")
		h.take(view(released, released, released)) // a fan-out of a moment
		step(time.Second, "")
		h.take(view(running, running, running))
		step(10*time.Second, "")
		if asked != 0 {
			t.Errorf("asked %d times, and nothing was held up", asked)
		}
		paused := view(released)
		paused.Paused = &agentplanev1.Stop{}
		h.take(paused)
		step(10*time.Second, "")
		h.take(view(released, running, released))
		step(5*time.Second, `web-1 waits: all places of budget "db" are taken; 1 more wait`)
		step(time.Minute, "")
		answers("the agent is DOWN", false)
		step(time.Minute, "web-1 waits: the agent is DOWN; 1 more wait")
		answers("", true)
		step(time.Minute, "")
		answers("all 4 slots are taken", false)
		h.take(view(running, running, released)) // it is about to be claimed
		step(2*time.Minute, "")
		h.take(view(released))
		step(2*time.Minute, "web-1 waits: all 4 slots are taken")
		answers("all places are taken, one of them by command c", false)
		mine := view(released)
		mine.Invocations[0].CommandId = "c"
		h.take(mine)
		step(2*time.Minute, "web-1 waits: all places are taken, one of them by this command")
		reboots := view(running, running)
		for _, i := range reboots.Invocations {
			i.Reason, i.Detail = "reboot_announced", "the program has announced a reboot"
		}
		h.take(reboots)
		h.take(reboots)
		step(time.Second, "web-2: the program has announced a reboot")
	})
}
