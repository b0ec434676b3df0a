//go:build agentplane_mutant_putback

package controlplane

// The mutant: a disk image that was put back is let in.
const comparesMemory = false
