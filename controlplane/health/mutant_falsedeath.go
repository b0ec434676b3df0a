//go:build agentplane_mutant_falsedeath

package health

// The mutant: an agent dies with its node.
const givesGrace = false
