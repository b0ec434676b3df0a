//go:build !agentplane_mutant_tornvote

package consensus

// votesAtOnce says that term and candidate of a vote are written together (I4).
const votesAtOnce = true
