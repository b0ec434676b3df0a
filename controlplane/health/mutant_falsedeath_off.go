//go:build !agentplane_mutant_falsedeath

package health

// givesGrace says that the agents of a node that died have time to come back (I11).
const givesGrace = true
