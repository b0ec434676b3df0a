package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// goodHistory has a hundred commands that succeeded.
func goodHistory() history {
	h := history{commands: map[string]finalCommand{}, listed: map[string]int{}, starts: map[start]int{}, least: 100}
	for n := range 100 {
		id := fmt.Sprint("c", n)
		h.add(submission{id: id, plain: true}, finalInvocation{state: "SUCCEEDED", started: true}, 1)
	}
	h.faults = []fault{{kind: "leader", live: true}}
	return h
}

// add adds a command with one invocation, whose program was started n times.
func (h *history) add(s submission, i finalInvocation, n int) {
	h.submissions = append(h.submissions, s)
	i.id, i.agent, i.attempt = s.id+".1", "a1", 1
	h.commands[s.id] = finalCommand{done: true, invocations: []finalInvocation{i}}
	h.listed[s.id] = 1
	if n > 0 {
		h.starts[start{i.id, 1}] = n
	}
}

func TestJudge(t *testing.T) {
	epoch := time.Unix(1e9, 0)
	lost := finalInvocation{state: "LOST", reason: "supervisor_gone", claimedAt: epoch, endedAt: epoch.Add(9 * time.Second)}
	for _, c := range []struct {
		name string
		do   func(h *history)
		want string // "" = nothing is wrong
	}{
		{"all is well", func(*history) {}, ""},
		{"an unknown one is there", func(h *history) {
			h.add(submission{id: "u", outcome: unknown}, finalInvocation{state: "SUCCEEDED"}, 1)
		}, ""},
		{"an unknown one is absent", func(h *history) {
			h.submissions = append(h.submissions, submission{id: "u", outcome: unknown})
		}, ""},
		{"a refused one is absent", func(h *history) {
			h.submissions = append(h.submissions, submission{id: "r", outcome: refused})
		}, ""},
		{"canceled before the start", func(h *history) { h.add(submission{id: "x"}, finalInvocation{state: "CANCELED"}, 0) }, ""},
		{"canceled during the run", func(h *history) { h.add(submission{id: "x"}, finalInvocation{state: "CANCELED", started: true}, 1) }, ""},
		{"expired", func(h *history) { h.add(submission{id: "x"}, finalInvocation{state: "EXPIRED"}, 0) }, ""},
		{"lost with its agent", func(h *history) {
			h.deaths = []agentDeath{{"a1", epoch.Add(5 * time.Second)}}
			h.add(submission{id: "x"}, lost, 1)
		}, ""},
		{"lost on a disk that failed", func(h *history) {
			h.ailments = []ailment{{"a1", epoch.Add(5 * time.Second), epoch.Add(6 * time.Second)}}
			h.add(submission{id: "x"}, lost, 1)
		}, ""},
		{"many that a disk that failed has refused", func(h *history) {
			h.ailments = []ailment{{"a1", epoch, epoch.Add(time.Second)}}
			for n := range 20 {
				s := submission{id: fmt.Sprint("f", n), plain: true, began: epoch, ended: epoch}
				h.add(s, finalInvocation{state: "REJECTED", reason: "no_journal"}, 0)
			}
		}, ""},

		{"an acknowledged one is missing", func(h *history) { delete(h.commands, "c7"); delete(h.listed, "c7") }, "c7 was acknowledged and is missing"},
		{"the list lacks one", func(h *history) { delete(h.listed, "c7") }, "the list has it 0 times"},
		{"the list has one twice", func(h *history) { h.listed["c7"] = 2 }, "the list has it 2 times"},
		{"a refused one is there", func(h *history) {
			h.add(submission{id: "r", outcome: refused}, finalInvocation{state: "SUCCEEDED"}, 1)
		}, "r was said not to be done"},
		{"nobody submitted it", func(h *history) { h.listed["ghost"] = 1 }, "ghost is there and nobody submitted it"},
		{"two starts", func(h *history) { h.starts[start{"c7.1", 1}] = 2 }, "attempt 1 of invocation c7.1 was started 2 times"},
		{"two starts of one that is lost", func(h *history) {
			h.deaths = []agentDeath{{"a1", epoch.Add(5 * time.Second)}}
			h.add(submission{id: "x"}, lost, 2)
		}, "attempt 1 of invocation x.1 was started 2 times"},
		{"success without a start", func(h *history) { delete(h.starts, start{"c7.1", 1}) }, "its program was started 0 times"},
		{"a start of nobody's attempt", func(h *history) { h.starts[start{"c7.1", 2}] = 1 }, "attempt 2 of invocation c7.1 was started, and the cluster does not know it"},
		{"a start of nobody's invocation", func(h *history) { h.starts[start{"ghost.1", 1}] = 1 }, "ghost.1 was started, and the cluster does not know it"},
		{"expired and started", func(h *history) { h.add(submission{id: "x"}, finalInvocation{state: "EXPIRED"}, 1) }, "must not have been"},
		{"rejected and started", func(h *history) { h.add(submission{id: "x"}, finalInvocation{state: "REJECTED"}, 1) }, "must not have been"},
		{"skipped and started", func(h *history) { h.add(submission{id: "x"}, finalInvocation{state: "SKIPPED"}, 1) }, "must not have been"},
		{"canceled before the start and started", func(h *history) { h.add(submission{id: "x"}, finalInvocation{state: "CANCELED"}, 1) }, "must not have been"},
		{"lost with its agent alive", func(h *history) { h.add(submission{id: "x"}, lost, 1) }, "nobody killed that agent"},
		{"lost with another agent", func(h *history) {
			h.deaths = []agentDeath{{"a2", epoch.Add(5 * time.Second)}}
			h.add(submission{id: "x"}, lost, 1)
		}, "nobody killed that agent"},
		{"lost long after its agent's death", func(h *history) {
			h.deaths = []agentDeath{{"a1", epoch.Add(-5 * time.Second)}}
			h.add(submission{id: "x"}, lost, 1)
		}, "nobody killed that agent"},
		{"lost long before a disk failed", func(h *history) {
			h.ailments = []ailment{{"a1", epoch.Add(time.Minute), epoch.Add(2 * time.Minute)}}
			h.add(submission{id: "x"}, lost, 1)
		}, "nobody killed that agent"},
		{"started without a journal", func(h *history) {
			h.ailments = []ailment{{"a1", epoch, epoch.Add(time.Minute)}}
			h.add(submission{id: "x", began: epoch, ended: epoch}, finalInvocation{state: "REJECTED", reason: "no_journal"}, 1)
		}, "must not have been"},
		{"a running one", func(h *history) { h.add(submission{id: "x"}, finalInvocation{state: "RUNNING"}, 1) }, "that is not final"},
		{"a command that is not over", func(h *history) { h.commands["c7"] = finalCommand{invocations: h.commands["c7"].invocations} }, "c7 is not over"},
		{"too many failures", func(h *history) {
			for n := range 6 {
				h.add(submission{id: fmt.Sprint("f", n), plain: true}, finalInvocation{state: "FAILED"}, 1)
			}
		}, "100 of 106 invocations that should have succeeded did"},
		{"too few commands", func(h *history) { h.least = 101 }, "void: 100 commands were acknowledged"},
		{"kills that met nobody", func(h *history) { h.faults = append(h.faults, fault{kind: "node"}) }, "void: 1 of 2 faults"},
		{"no kills", func(h *history) { h.faults = nil }, "void: 0 of 0 faults"},
		{"an oddity", func(h *history) { h.oddities = []string{"agent a1 was called DOWN"} }, "agent a1 was called DOWN"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := goodHistory()
			c.do(&h)
			got := strings.Join(judge(h), "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("judge says %q, want %q", got, c.want)
			}
		})
	}
}
