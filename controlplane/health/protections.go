//go:build !agentplane_mutants

package health

// givesGrace says that the agents of a node that died have time to come back (I11).
const givesGrace = true
