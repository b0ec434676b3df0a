package pki

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/agentplane/agentplane/proto/identity"
)

// LoadBootState reads the file, which nobody but its owner may access. A missing
// file answers fs.ErrNotExist: the node has not joined a cluster yet.
func LoadBootState(path string) (*BootState, error) {
	data, err := identity.ReadSecretFile(path, maxBootBytes)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("load boot state: %w", err)
		}
		return nil, fmt.Errorf("load boot state: %w (the node starts with nothing else to trust)", err)
	}
	s, err := ParseBootState(data)
	if err != nil {
		return nil, fmt.Errorf("load boot state %q: %w; the file is never half written, so the disk is failing or somebody changed it: "+
			"remove this node with \"agentctl cluster remove\" elsewhere, move the data directory away and join as a new node with \"agentctl cluster join\"", path, err)
	}
	return s, nil
}

// Store replaces the file. When it returns nil the state survives a power cut;
// after an error the file holds the old or the new state, and the node must not
// go on as if it held the new one.
func (s *BootState) Store(path string) error {
	data, err := s.Marshal()
	if err != nil {
		return err
	}
	if len(data) > maxBootBytes {
		return fmt.Errorf("store boot state %q: %d bytes is above the maximum %d", path, len(data), maxBootBytes)
	}
	if err := identity.ReplaceFile(path, data); err != nil {
		return fmt.Errorf("store boot state: %w", err)
	}
	return nil
}
