//go:build agentplane_mutants

package session

import (
	"os"
	"slices"
	"strings"
)

// mutates says that the mutant with the name is asked for (see e2e/doc.go), alone or, with a
// comma between, with another one.
func mutates(name string) bool { return slices.Contains(strings.Split(os.Getenv("MUTANT"), ","), name) }

// The mutant: the agent takes any delivery.
var comparesDeliveries = !mutates("delivery")

// The mutant: the agent takes a node of any incarnation.
var comparesIncarnations = !mutates("oldnode")
