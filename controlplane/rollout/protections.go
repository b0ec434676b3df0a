//go:build !agentplane_mutants

package rollout

// expires says that what was not claimed in time expires (I3).
const expires = true

// waits says that an attempt whose agent has no session is waited for before it is LOST (I3).
const waits = true
