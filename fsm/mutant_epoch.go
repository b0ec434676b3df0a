//go:build agentplane_mutant_epoch

package fsm

// The mutant: any session epoch is taken for the current one.
const comparesEpochs = false
