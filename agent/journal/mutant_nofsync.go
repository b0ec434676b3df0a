//go:build agentplane_mutant_nofsync

package journal

// The mutant: an append is not fsynced.
const syncsAppends = false
