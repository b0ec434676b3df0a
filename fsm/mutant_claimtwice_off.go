//go:build !agentplane_mutant_claimtwice

package fsm

// claimsOnce says that an attempt is claimed once (I2).
const claimsOnce = true
