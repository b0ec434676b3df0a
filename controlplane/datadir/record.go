package datadir

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/google/uuid"

	"github.com/agentplane/agentplane/proto/frame"
	"github.com/agentplane/agentplane/proto/identity"
)

const (
	recordFormat   = 1
	recordFrame    = 1 // the type of the only frame in the node file
	maxRecordBytes = 4 << 10
)

// nodeRecord is the content of the node file.
type nodeRecord struct {
	Format    int    `json:"format"`
	NodeID    string `json:"node_id"`
	ClusterID string `json:"cluster_id,omitempty"`
	Starts    uint64 `json:"starts"`
	// StartIDs are random, one for each of the last starts, this one first. Starts that are
	// counted twice, since an older disk was put back between, differ in them.
	StartIDs [][]byte `json:"start_ids,omitempty"`
	// PutBack says that the cluster has refused it as older than what it has seen.
	PutBack bool `json:"put_back,omitempty"`
}

const (
	startIDBytes = 16
	maxStartIDs  = 64 // a preface names them
)

// countStart reads the record, or begins one in a fresh directory, and returns
// it with one more start counted on disk.
func (d *Dir) countStart() (nodeRecord, error) {
	path := d.Path(nodeFile)
	data, err := identity.ReadSecretFile(path, maxRecordBytes)
	var r nodeRecord
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Lstat(d.Path(bootFile)); !errors.Is(err, fs.ErrNotExist) {
			return nodeRecord{}, fmt.Errorf("file %q is missing although the node has joined a cluster; "+
				"bring it back, or remove the node with \"agentctl cluster remove\" elsewhere, move the directory away and join again as a new node", path)
		}
		id, err := uuid.NewRandom()
		if err != nil {
			return nodeRecord{}, fmt.Errorf("make node id: %w", err)
		}
		r = nodeRecord{Format: recordFormat, NodeID: id.String()}
	case err != nil:
		return nodeRecord{}, err
	default:
		if r, err = parseRecord(data); err != nil {
			return nodeRecord{}, fmt.Errorf("read file %q: %w; move the directory away and join again as a new node", path, err)
		}
	}
	if r.PutBack {
		return nodeRecord{}, ErrPutBack
	}
	id := make([]byte, startIDBytes)
	_, _ = rand.Read(id) // never fails
	r.StartIDs = append([][]byte{id}, r.StartIDs[:min(len(r.StartIDs), maxStartIDs-1)]...)
	r.Starts++
	return r, d.writeRecord(r)
}

// writeRecord requires d.mu, or that nobody else knows d yet.
func (d *Dir) writeRecord(r nodeRecord) error {
	payload, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return d.Replace(nodeFile, frame.Append(nil, recordFrame, payload))
}

func parseRecord(data []byte) (nodeRecord, error) {
	typ, payload, rest, err := frame.Parse(data)
	switch {
	case err != nil:
		return nodeRecord{}, err
	case typ != recordFrame:
		return nodeRecord{}, fmt.Errorf("frame of type %d, want %d", typ, recordFrame)
	case len(rest) > 0:
		return nodeRecord{}, fmt.Errorf("%d bytes follow its only frame", len(rest))
	}
	var r nodeRecord
	if err := json.Unmarshal(payload, &r); err != nil {
		return nodeRecord{}, err
	}
	if r.Format != recordFormat {
		return nodeRecord{}, fmt.Errorf("format %d is not %d; it was written by another version", r.Format, recordFormat)
	}
	if u, err := uuid.Parse(r.NodeID); err != nil || u.String() != r.NodeID {
		return nodeRecord{}, fmt.Errorf("node id %q is not a lower-case UUID", r.NodeID)
	}
	if r.ClusterID != "" {
		if err := identity.ValidateCluster(r.ClusterID); err != nil {
			return nodeRecord{}, err
		}
	}
	if r.Starts == 0 || r.Starts == 1<<64-1 {
		return nodeRecord{}, fmt.Errorf("start counter %d is impossible", r.Starts)
	}
	if len(r.StartIDs) > maxStartIDs {
		return nodeRecord{}, fmt.Errorf("it has the ids of %d starts, at most %d are kept", len(r.StartIDs), maxStartIDs)
	}
	for _, id := range r.StartIDs {
		if len(id) != startIDBytes {
			return nodeRecord{}, fmt.Errorf("the id of a start has %d bytes, want %d", len(id), startIDBytes)
		}
	}
	return r, nil
}
