package datadir

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
)

// Addresses is what addresses.json tells scripts: where the node really listens,
// also when it was told to take any port, and what it tells others.
type Addresses struct {
	Listen          string `json:"listen"`
	Advertise       string `json:"advertise"`
	GossipListen    string `json:"gossipListen,omitempty"`
	GossipAdvertise string `json:"gossipAdvertise,omitempty"`
}

// addressesDocument adds what the directory itself knows.
type addressesDocument struct {
	NodeID    string `json:"nodeId"`
	ClusterID string `json:"clusterId,omitempty"`
	PID       int    `json:"pid"`
	Addresses
}

// WriteAddresses writes addresses.json. The file is there only while the node
// runs: Open and Close take it away, so that whoever waits for it reads no
// address of an earlier start.
func (d *Dir) WriteAddresses(a Addresses) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("write addresses: data directory %q: %w", d.path, fs.ErrClosed)
	}
	data, err := json.MarshalIndent(addressesDocument{
		NodeID: d.record.NodeID, ClusterID: d.record.ClusterID, PID: os.Getpid(), Addresses: a,
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("write addresses: %w", err)
	}
	return d.Replace(addressesFile, append(data, '\n'))
}
