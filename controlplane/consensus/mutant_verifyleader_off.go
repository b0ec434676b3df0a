//go:build !agentplane_mutant_verifyleader

package consensus

import "context"

// confirmation is how this node makes sure that it still leads before it answers a
// read.
func (h *Host) confirmation() func(context.Context) (uint64, error) { return h.round }
