//go:build !agentplane_mutants

package dispatch

// deliversOldClaims says that what was claimed in an earlier session, here or on another
// node, is delivered in this one when the agent has not answered for it (I3).
const deliversOldClaims = true
