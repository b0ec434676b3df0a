//go:build !agentplane_mutant_cancel

package fsm

// cancelMeansNever says that an attempt that is not claimed when its command is canceled
// is never claimed (I6).
const cancelMeansNever = true
