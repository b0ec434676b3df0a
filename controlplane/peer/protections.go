//go:build !agentplane_mutants

package peer

// comparesIncarnations says that a node of another life of the cluster is refused (I13).
const comparesIncarnations = true

// judgesPrefaces says that who connects is judged by what it says first (I13).
const judgesPrefaces = true
