//go:build !agentplane_mutant_deposed

package fsm

// refusesDeposed says that an entry of a leader who has left office changes nothing
// (I4).
const refusesDeposed = true
