//go:build agentplane_mutant_journallost

package fsm

// The mutant: what is claimed stays claimed when the agent comes with another journal.
const losesWithJournal = false
