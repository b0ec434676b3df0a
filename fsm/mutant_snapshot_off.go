//go:build !agentplane_mutant_snapshot

package fsm

// snapshotsSessions says that sessions are part of a snapshot, as every table is (I9).
const snapshotsSessions = true
