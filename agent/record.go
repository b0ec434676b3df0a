package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/google/uuid"

	"github.com/agentplane/agentplane/proto/identity"
)

const recordFormat = 1

// record is agent.json: who this agent is.
type record struct {
	Format  int    `json:"format"`
	AgentID string `json:"agent_id"`
	// What enrolment told; empty before.
	ClusterID string `json:"cluster_id,omitempty"`
	Name      string `json:"name,omitempty"`
	// TokenID is that of the token with which the agent has enrolled last. One that stays
	// in the configuration brings no removed agent back.
	TokenID string `json:"token_id,omitempty"`
	// EnrolledAt is the cluster's time of enrolment, Unix nanoseconds: the floor of the
	// first journal.
	EnrolledAt int64 `json:"enrolled_at,omitempty"`
	// FloorGiven says that the first journal has, or is about to have, its floor.
	FloorGiven bool `json:"floor_given,omitempty"`
}

func (r record) enrolled() bool { return r.ClusterID != "" }

func (r record) id() identity.ID {
	return identity.ID{Cluster: r.ClusterID, Kind: identity.KindAgent, Name: r.AgentID}
}

// loadRecord reads agent.json, or begins one with a new agent id and makes it durable.
func loadRecord(dir *directory) (record, error) {
	path := dir.file(recordFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(dir.file(certificateFile)); !errors.Is(err, fs.ErrNotExist) {
			return record{}, damaged(path, errors.New("it is missing beside the certificate of an agent"))
		}
		r := record{Format: recordFormat, AgentID: uuid.NewString()}
		return r, r.store(path)
	}
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, damaged(path, err)
	}
	switch {
	case r.Format != recordFormat:
		return record{}, fmt.Errorf("read %q: format %d is not one that this release knows (%d); use the release that wrote it", path, r.Format, recordFormat)
	case identity.ValidateName(r.AgentID) != nil:
		return record{}, damaged(path, fmt.Errorf("agent id %.64q: %w", r.AgentID, identity.ValidateName(r.AgentID)))
	}
	return r, nil
}

func (r record) store(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return identity.ReplaceFile(path, append(b, '\n'))
}
