//go:build agentplane_mutants

package depot

import "os"

// mutates says that the mutant with the name is asked for (see e2e/doc.go).
func mutates(name string) bool { return os.Getenv("MUTANT") == name }

// The mutant: what one node has is acknowledged.
func neededOf(voters int) int {
	if mutates("bloback") {
		return 1
	}
	return voters/2 + 1
}
