//go:build agentplane_mutant_digest

package fsm

// The mutant: the same id is taken for the same command, whatever it holds.
const comparesDigests = false
