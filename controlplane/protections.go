//go:build !agentplane_mutants

package controlplane

// comparesMemory says that a node that comes back with less than it was seen with is
// refused (I1, I13).
const comparesMemory = true

// callEnds is called as a call ends: nothing of it stays behind (I14).
func callEnds() {}
