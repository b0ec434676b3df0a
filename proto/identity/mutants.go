//go:build agentplane_mutants

package identity

import (
	"os"
)

// mutates says that the mutant with the name is asked for (see e2e/doc.go).
func mutates(name string) bool { return os.Getenv("MUTANT") == name }

// The mutant: the cluster that a certificate names is not looked at.
var comparesClusters = !mutates("othercluster")

// The mutant: a certificate is enough to be a node.
var comparesNodeKeys = !mutates("registration")
