package e2e

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// outcome is what a client was told of a submission.
type outcome int

const (
	acknowledged outcome = iota
	unknown              // it may stand or not
	refused              // known not to be done
)

// submission is one command of one client.
type submission struct {
	id           string
	outcome      outcome
	plain        bool // it should succeed: nobody cancels it, and it has time
	began, ended time.Time
	problem      string // for an outcome other than acknowledged
}

// finalCommand is a command as the cluster shows it when all is over.
type finalCommand struct {
	done        bool
	invocations []finalInvocation
}

type finalInvocation struct {
	id, agent, state, reason string
	attempt                  int
	started                  bool // the agent told when its program began
	// When it was claimed and when it ended, by the cluster's time; of LOST ones.
	claimedAt, endedAt time.Time
	row                *agentplanev1.Invocation
}

// fault is something that was done to the cluster on purpose.
type fault struct {
	kind string
	live bool // what was meant was alive to meet it
	at   time.Time
}

// agentDeath is a SIGKILL of an agent.
type agentDeath struct {
	agent string
	at    time.Time
}

// ailment is a time in which the disk of an agent failed.
type ailment struct {
	agent    string
	from, to time.Time
}

// ailsFor is how long an agent goes on refusing when its disk is mended: it opens a dead journal again
// every quarter of a minute.
const ailsFor = 20 * time.Second

// ailed says whether the disk of the agent failed between two moments, or had just failed.
func (h history) ailed(agent string, from, to time.Time) bool {
	return slices.ContainsFunc(h.ailments, func(a ailment) bool {
		return a.agent == agent && a.from.Before(to.Add(deathSlack)) && a.to.Add(ailsFor).After(from.Add(-deathSlack))
	})
}

// history is a run of faults under load, as it was seen from outside.
type history struct {
	submissions []submission
	commands    map[string]finalCommand // by id; those that are not there are missing
	listed      map[string]int          // how often each id stands in the list
	starts      map[start]int           // what the programs wrote
	deeds       map[start][]deed        // and those that are parts of an attempt
	faults      []fault
	deaths      []agentDeath
	ailments    []ailment
	// What should never be seen: agents called DOWN, processes that ended by themselves.
	oddities []string

	least int // fewer acknowledged commands than these void the run
	// leastPart of what should succeed does; leastSucceeded when it is 0.
	leastPart float64
}

const (
	// leastLive and leastSucceeded are parts of all.
	leastLive      = 0.95
	leastSucceeded = 0.95
	// deathSlack is how far the cluster's time and that of the test may be apart.
	deathSlack = time.Second
)

var neverStarted = []string{"EXPIRED", "REJECTED", "SKIPPED"}

var finals = []string{"LOST", "SUCCEEDED", "FAILED", "TIMED_OUT", "CANCELED", "REJECTED", "EXPIRED", "SKIPPED"}

// judge says what in a history breaks a promise, and what makes the run void. It is
// a function of its argument, so that a table tests it.
func judge(h history) (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	wrong = append(wrong, h.oddities...)
	acks, plain, succeeded := 0, 0, 0
	submitted := make(map[string]bool)
	for _, s := range h.submissions {
		submitted[s.id] = true
		c, there := h.commands[s.id]
		listed := h.listed[s.id]
		if there != (listed > 0) || listed > 1 {
			say("command %s: reading it says there=%v, but the list has it %d times", s.id, there, listed)
		}
		switch {
		case s.outcome == acknowledged:
			acks++
			if !there {
				say("command %s was acknowledged and is missing", s.id)
			}
		case s.outcome == refused && there:
			say("command %s was said not to be done (%s) and is there", s.id, s.problem)
		}
		if !there {
			continue
		}
		if !c.done {
			say("command %s is not over", s.id)
		}
		for _, i := range c.invocations {
			// On a disk that fails most do not succeed; what must hold of them all the same is judged.
			if s.plain && s.outcome == acknowledged && !h.ailed(i.agent, s.began, s.ended.Add(ailsFor)) {
				plain++
				if i.state == "SUCCEEDED" {
					succeeded++
				}
			}
			wrong = append(wrong, judgeInvocation(h, i)...)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(h.listed)) {
		if !submitted[id] {
			say("command %s is there and nobody submitted it", id)
		}
	}
	wrong = append(wrong, judgeStarts(h)...)
	if part := cmp.Or(h.leastPart, leastSucceeded); float64(succeeded) < part*float64(plain) {
		say("%d of %d invocations that should have succeeded did, less than %v", succeeded, plain, part)
	}
	live := 0
	for _, f := range h.faults {
		if f.live {
			live++
		}
	}
	if float64(live) < leastLive*float64(len(h.faults)) || live == 0 {
		say("void: %d of %d faults hit a live target, less than %v", live, len(h.faults), leastLive)
	}
	if acks < h.least || plain == 0 {
		say("void: %d commands were acknowledged, %d invocations of them plain, at least %d are needed", acks, plain, h.least)
	}
	return wrong
}

func judgeInvocation(h history, i finalInvocation) (wrong []string) {
	say := func(format string, args ...any) {
		wrong = append(wrong, fmt.Sprintf("invocation %s of agent %s is %s(%s): ", i.id, i.agent, i.state, i.reason)+fmt.Sprintf(format, args...))
	}
	n := h.starts[start{i.id, i.attempt}]
	switch {
	case !slices.Contains(finals, i.state):
		say("that is not final")
	case i.state == "SUCCEEDED" && n != 1:
		say("its program was started %d times", n)
	case slices.Contains(neverStarted, i.state) && n != 0,
		i.state == "CANCELED" && !i.started && n != 0:
		say("its program was started %d times and must not have been", n)
	case i.state == "LOST" && !slices.ContainsFunc(h.deaths, func(d agentDeath) bool {
		return d.agent == i.agent && d.at.After(i.claimedAt.Add(-deathSlack)) && d.at.Before(i.endedAt.Add(deathSlack))
	}) && !h.ailed(i.agent, i.claimedAt, i.endedAt):
		say("nobody killed that agent between %s and %s", i.claimedAt.Format(time.StampMilli), i.endedAt.Format(time.StampMilli))
	}
	return wrong
}

// judgeStarts looks from the other side: from what the programs wrote.
func judgeStarts(h history) (wrong []string) {
	attempts := make(map[string]int) // of each invocation that is there
	for _, c := range h.commands {
		for _, i := range c.invocations {
			attempts[i.id] = i.attempt
		}
	}
	for s, n := range h.starts {
		last, there := attempts[s.invocation]
		switch {
		case n > 1:
			wrong = append(wrong, fmt.Sprintf("attempt %d of invocation %s was started %d times", s.attempt, s.invocation, n))
		case !there || s.attempt < 1 || s.attempt > last:
			wrong = append(wrong, fmt.Sprintf("attempt %d of invocation %s was started, and the cluster does not know it", s.attempt, s.invocation))
		}
	}
	slices.Sort(wrong)
	return wrong
}
