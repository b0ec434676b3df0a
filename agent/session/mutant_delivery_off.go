//go:build !agentplane_mutant_delivery

package session

// comparesDeliveries says that the agent drops what was sent to another session of it
// (I5).
const comparesDeliveries = true
