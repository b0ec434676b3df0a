//go:build !agentplane_mutants

package depot

// neededOf is how many nodes must have a blob on their disks before it is acknowledged
// (I1): one of them outlives the loss of any minority of the voters.
func neededOf(voters int) int { return voters/2 + 1 }
