//go:build agentplane_mutant_cancel

package fsm

// The mutant: a cancel leaves alone what is not claimed yet.
const cancelMeansNever = false
