//go:build !agentplane_mutants

package journal

// syncsAppends says that a record is on disk before it is acknowledged (I2).
const syncsAppends = true

// refusesKept says that no undo begins of what was confirmed.
const refusesKept = true
