//go:build agentplane_mutants

package fsm

import (
	"os"
	"slices"
	"strings"
	"time"
)

// mutates says that the mutant with the name is asked for (see e2e/doc.go), alone or, with a
// comma between, with another one.
func mutates(name string) bool { return slices.Contains(strings.Split(os.Getenv("MUTANT"), ","), name) }

// The mutant: a cancel leaves alone what is not claimed yet.
var cancelMeansNever = !mutates("cancel")

// The mutant: a claim of what is claimed already is granted anew.
var claimsOnce = !mutates("claimtwice")

// The mutant: each replica asks its own clock.
func timeOf(now int64) int64 {
	if asksOwnClock {
		return time.Now().UnixNano()
	}
	return now
}

var asksOwnClock = mutates("clock")

// The mutant: what a deposed leader decided is carried out.
var refusesDeposed = !mutates("deposed")

// The mutant: the same id is taken for the same command, whatever it holds.
var comparesDigests = !mutates("digest")

// The mutant: any session epoch is taken for the current one.
var comparesEpochs = !mutates("epoch")

// The mutant: a slot that is settled fires again when somebody says so.
var firesOnce = !mutates("firetwice")

// The mutant: an image of an agent that was put back gets a session.
var comparesJournals = !mutates("journalbehind")

// The mutant: what is claimed stays claimed when the agent comes with another journal.
var losesWithJournal = !mutates("journallost")

// The mutant: a claim looks at no lock.
var respectsLocks = !mutates("locks")

// The mutant: what a paused command has released is claimed.
var pauseStops = !mutates("pause")

// The mutant: nobody counts failures.
var judgesAtOnce = !mutates("breach")

// The mutant: a snapshot forgets the sessions.
var snapshotsSessions = !mutates("snapshot")

// The mutant: any number of invocations may wait for an agent.
var boundsQueues = !mutates("queuemax")
