//go:build !agentplane_mutant_journalbehind

package fsm

// comparesJournals says that an agent whose journal is behind what the cluster has seen
// of it is quarantined (I2).
const comparesJournals = true
