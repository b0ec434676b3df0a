//go:build agentplane_mutant_tornvote

package consensus

// The mutant: the term of a vote is written before its candidate.
const votesAtOnce = false
