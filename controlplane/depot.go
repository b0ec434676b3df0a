package controlplane

import (
	"context"

	"github.com/agentplane/agentplane/controlplane/authz"
	"github.com/agentplane/agentplane/controlplane/depot"
)

const depotDir = "blobs"

// openDepot opens what keeps the files and the input that commands bring along.
func (m *member) openDepot() error {
	c := m.n.o.Config
	// Uploads that came to nothing stay for a while, beside what rows name.
	store, err := depot.OpenStore(depot.StoreOptions{
		Dir: m.n.dir.Path(depotDir), MaxBytes: 2 * c.Files.StoreBytes, ReserveBytes: c.Output.ReserveBytes, FreeBytes: m.n.o.Surroundings.FreeBytes,
	})
	if err != nil {
		return err
	}
	m.depot, err = depot.New(depot.Options{
		NodeID: m.n.ID(), Store: store, Machine: m.state, Proposer: m.forwarder, Peers: m.pool, Voters: m.voters, Read: m.read,
		Agent:    func(ctx context.Context) string { return authz.From(ctx).Name },
		MaxBytes: c.Files.StoreBytes, MaxBlobs: c.Files.StoreCount, Keep: c.Files.Keep, Now: m.clock.now, Logger: m.logger.Named("depot"),
	})
	return err
}
