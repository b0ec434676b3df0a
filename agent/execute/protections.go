//go:build !agentplane_mutants

package execute

// startsOnce says that nothing is started where an attempt has a directory already (I2).
const startsOnce = true
