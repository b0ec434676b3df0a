//go:build agentplane_mutants

package schedule

import (
	"os"
	"slices"
	"strings"
	"sync"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// mutates says that the mutant with the name is asked for (see e2e/doc.go), alone or, with a
// comma between, with another one.
func mutates(name string) bool { return slices.Contains(strings.Split(os.Getenv("MUTANT"), ","), name) }

// decidedAgain are the slots that were decided on twice.
var decidedAgain sync.Map

// The mutant: a slot that the state shows as settled is decided on once more.
func settledTo(s *raftlogv1.Schedule) int64 {
	if !mutates("refire") {
		return s.GetLastSlot()
	}
	if _, again := decidedAgain.LoadOrStore([2]any{s.GetId(), s.GetLastSlot()}, true); again {
		return s.GetLastSlot()
	}
	return s.GetLastSlot() - 1
}
