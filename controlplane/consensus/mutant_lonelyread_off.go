//go:build !agentplane_mutant_lonelyread

package consensus

// asksVoters says that a read round asks a majority of the voters (I7, I10).
const asksVoters = true
