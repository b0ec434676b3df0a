//go:build agentplane_mutant_deposed

package fsm

// The mutant: what a deposed leader decided is carried out.
const refusesDeposed = false
