//go:build !agentplane_mutant_incarnation

package peer

// comparesIncarnations says that a node of another life of the cluster is refused (I13).
const comparesIncarnations = true
