//go:build agentplane_mutants

package dispatch

import "os"

// mutates says that the mutant with the name is asked for (see e2e/doc.go).
func mutates(name string) bool { return os.Getenv("MUTANT") == name }

// The mutant: a claim of an earlier session is nobody's to deliver.
var deliversOldClaims = !mutates("oldclaim")
