//go:build !agentplane_mutant_digest

package fsm

// comparesDigests says that an id that stands for other content is a conflict (I8).
const comparesDigests = true
