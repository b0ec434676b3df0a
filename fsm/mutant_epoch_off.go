//go:build !agentplane_mutant_epoch

package fsm

// comparesEpochs says that what is asked in the name of an older session is refused
// (I5).
const comparesEpochs = true
