//go:build !agentplane_mutants

package session

// comparesDeliveries says that the agent drops what was sent to another session of it
// (I5).
const comparesDeliveries = true
