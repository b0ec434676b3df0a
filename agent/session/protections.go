//go:build !agentplane_mutants

package session

// comparesDeliveries says that the agent drops what was sent to another session of it
// (I5).
const comparesDeliveries = true

// comparesIncarnations says that the agent goes on with no node that lives in an older
// incarnation than it has seen (I13).
const comparesIncarnations = true
