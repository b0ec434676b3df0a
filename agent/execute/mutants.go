//go:build agentplane_mutants

package execute

import (
	"os"
	"slices"
	"strings"
)

// mutates says that the mutant with the name is asked for (see e2e/doc.go).
func mutates(name string) bool {
	return slices.Contains(strings.Split(os.Getenv("MUTANT"), ","), name)
}

var (
	// The mutant: a directory that is there is no reason not to start.
	startsOnce = !mutates("startagain")
	// The mutants: an undo, or any step, of which it is not known how it ended is started again.
	letGoOnce  = !mutates("undoagain") && undosAlone
	undosAlone = !mutates("stepagain")
	// The mutant: a reboot that a program has announced is taken to have come.
	awaitsReboots = !mutates("noreboot")
	// The mutant: an undo runs at its time whoever has confirmed the attempt.
	looksWhetherKept = !mutates("deafundo")
	// The mutant: files and input are what lies there.
	comparesContents = !mutates("spoilt")
)
