//go:build agentplane_mutant_expiry

package rollout

// The mutant: nothing expires.
const expires = false
