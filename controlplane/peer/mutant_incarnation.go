//go:build agentplane_mutant_incarnation

package peer

// The mutant: incarnations are not compared.
const comparesIncarnations = false
