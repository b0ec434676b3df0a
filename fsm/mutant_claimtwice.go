//go:build agentplane_mutant_claimtwice

package fsm

// The mutant: a claim of what is claimed already is granted anew.
const claimsOnce = false
