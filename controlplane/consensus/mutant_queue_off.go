//go:build !agentplane_mutant_queue

package consensus

// boundsQueue says that the queue of proposals is bounded (I14).
const boundsQueue = true
