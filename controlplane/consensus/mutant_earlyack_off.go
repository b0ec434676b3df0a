//go:build !agentplane_mutant_earlyack

package consensus

// acknowledgesEarly answers a batch before raft has: never, since what is not committed
// may be lost (I1).
func acknowledgesEarly([]*proposal) bool { return false }
