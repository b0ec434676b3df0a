//go:build !agentplane_mutants

package agent

// comparesGrants says that the work takes deliveries of the session that was granted last, and of
// no other (I5).
const comparesGrants = true
