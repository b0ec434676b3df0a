//go:build !agentplane_mutants

package rollout

// expires says that what was not claimed in time expires (I3).
const expires = true
