//go:build agentplane_mutant_queue

package consensus

// The mutant: any number of proposals may wait.
const boundsQueue = false
