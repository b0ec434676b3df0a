//go:build agentplane_mutants

package controlplane

import (
	"os"
)

// mutates says that the mutant with the name is asked for (see e2e/doc.go).
func mutates(name string) bool { return os.Getenv("MUTANT") == name }

// The mutant: a disk image that was put back is let in.
var comparesMemory = !mutates("putback")

var leaks = mutates("leak")

// The mutant: of each call a goroutine stays behind.
func callEnds() {
	if leaks {
		go func() { select {} }()
	}
}
