//go:build !agentplane_points

package consensus

// dies says that this build may be made to die at named points.
const dies = false

// point names a point at which the kill matrix makes the process die (e2e/doc.go).
func point(string) {}
