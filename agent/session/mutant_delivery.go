//go:build agentplane_mutant_delivery

package session

// The mutant: the agent takes any delivery.
const comparesDeliveries = false
