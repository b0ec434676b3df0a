//go:build agentplane_mutants

package identity

import (
	"os"
	"slices"
	"strings"
)

// mutates says that the mutant with the name is asked for (see e2e/doc.go), alone or, with a
// comma between, with another one.
func mutates(name string) bool { return slices.Contains(strings.Split(os.Getenv("MUTANT"), ","), name) }

// The mutant: the cluster that a certificate names is not looked at.
var comparesClusters = !mutates("othercluster")

// The mutant: a certificate is enough to be a node.
var comparesNodeKeys = !mutates("registration")

// The mutant: any issuer of a certificate is as good as one of this cluster.
var asksIssuers = !mutates("issuer")
