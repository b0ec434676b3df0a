//go:build !agentplane_mutant_journallost

package fsm

// losesWithJournal says that what was claimed under a journal that is gone is LOST (I2,
// I3).
const losesWithJournal = true
