//go:build agentplane_mutant_lonelyread

package consensus

// The mutant: a leader believes itself that it leads.
const asksVoters = false
