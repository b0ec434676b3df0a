//go:build agentplane_mutant_snapshot

package fsm

// The mutant: a snapshot forgets the sessions.
const snapshotsSessions = false
