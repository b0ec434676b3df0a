//go:build agentplane_mutant_journalbehind

package fsm

// The mutant: an image of an agent that was put back gets a session.
const comparesJournals = false
