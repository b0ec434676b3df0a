//go:build agentplane_mutant_startagain

package execute

// The mutant: a directory that is there is no reason not to start.
const startsOnce = false
