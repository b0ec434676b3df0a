package consensus

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/agentplane/agentplane/proto/frame"
)

const (
	frameSeal    = 'M'
	sealFormat   = 1
	maxSealBytes = 1 << 20
)

// sealed is raft's file store of snapshots with a checksum over what a snapshot says
// of itself.
//
// raft keeps a checksum of a snapshot's state only. Term, index and configuration lie
// beside it in meta.json without one, and raft believes them: one flipped bit gives
// the node a configuration that nobody ever had, in which it may be the only voter.
// So the state begins with a frame that repeats them (the seal), which raft's checksum
// covers with the rest and which is on disk, whole, before the snapshot has its name.
// A snapshot whose meta.json says anything else is damaged: it is neither listed nor
// opened, so that it is neither restored nor sent to anybody. One without a seal is
// damaged too: no release has made any.
//
// The seal stays on this node's disk. A follower that is sent the state seals it with
// what the leader says, over a connection that does not flip bits.
type sealed struct {
	raft.SnapshotStore
	dir    string
	logger hclog.Logger
}

// seal is what the frame holds, as JSON: whoever must look into a snapshot by hand can.
type seal struct {
	Format             int            `json:"format"`
	ID                 string         `json:"id"`
	Index              uint64         `json:"index"`
	Term               uint64         `json:"term"`
	ConfigurationIndex uint64         `json:"configuration_index"`
	Servers            []sealedServer `json:"servers"`
}

type sealedServer struct {
	ID       string `json:"id"`
	Address  string `json:"address"`
	Suffrage int    `json:"suffrage"` // raft's number
}

// openSnapshots opens or makes the snapshots of a raft directory.
func openSnapshots(dir string, retain int, logger hclog.Logger) (*sealed, error) {
	inner, err := raft.NewFileSnapshotStoreWithLogger(dir, retain, logger)
	if err != nil {
		return nil, fmt.Errorf("open snapshots in %q: %w", dir, err)
	}
	return &sealed{SnapshotStore: inner, dir: filepath.Join(dir, "snapshots"), logger: logger}, nil
}

func sealOf(m *raft.SnapshotMeta) seal {
	s := seal{Format: sealFormat, ID: m.ID, Index: m.Index, Term: m.Term, ConfigurationIndex: m.ConfigurationIndex}
	for _, server := range m.Configuration.Servers {
		s.Servers = append(s.Servers, sealedServer{string(server.ID), string(server.Address), int(server.Suffrage)})
	}
	return s
}

// Create is raft's.
func (s *sealed) Create(version raft.SnapshotVersion, index, term uint64, cfg raft.Configuration, cfgIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(version, index, term, cfg, cfgIndex, trans)
	if err != nil {
		return nil, err
	}
	payload, err := json.Marshal(sealOf(&raft.SnapshotMeta{ID: sink.ID(), Index: index, Term: term, Configuration: cfg, ConfigurationIndex: cfgIndex}))
	if err == nil {
		_, err = sink.Write(frame.Append(nil, frameSeal, payload))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("seal snapshot %s: %w", sink.ID(), err), sink.Cancel())
	}
	return sink, nil
}

// finished answers every snapshot that was ever finished and is still kept, damaged or
// not, newest first. What it says is what the names of their directories say.
func (s *sealed) finished() ([]*raft.SnapshotMeta, error) {
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	var all []*raft.SnapshotMeta
	for _, name := range names {
		m := &raft.SnapshotMeta{ID: name}
		if _, err := fmt.Sscanf(name, "%d-%d-", &m.Term, &m.Index); err != nil {
			return nil, fmt.Errorf("list snapshots: directory %q is not of a snapshot", name)
		}
		all = append(all, m)
	}
	newestFirst(all)
	return all, nil
}

func newestFirst(metas []*raft.SnapshotMeta) {
	slices.SortFunc(metas, func(a, b *raft.SnapshotMeta) int {
		return -cmp.Or(cmp.Compare(a.Term, b.Term), cmp.Compare(a.Index, b.Index), cmp.Compare(a.ID, b.ID))
	})
}

// List answers the snapshots whose meta.json is what was written, newest first. Their
// states may still be damaged: Open says so.
func (s *sealed) List() ([]*raft.SnapshotMeta, error) {
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	var metas []*raft.SnapshotMeta
	for _, name := range names {
		m, err := s.meta(name)
		if err != nil {
			s.logger.Warn("snapshot left out", "id", name, "err", err)
			continue
		}
		metas = append(metas, m)
	}
	newestFirst(metas)
	return metas, nil
}

// names are the snapshots that were finished, by their directories.
func (s *sealed) names() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasSuffix(e.Name(), ".tmp") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Open opens a snapshot that is whole.
func (s *sealed) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m, err := s.meta(id)
	if err != nil {
		return nil, nil, err
	}
	_, state, err := s.SnapshotStore.Open(id) // verifies the checksum of all, the seal with it
	if err != nil {
		return nil, nil, err
	}
	if _, _, err := frame.NewReader(state, maxSealBytes).Next(); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("skip the seal: %w", err), state.Close())
	}
	return m, state, nil
}

// meta reads what the snapshot says of itself, and compares it with the seal. The size
// is that of the state without the seal.
func (s *sealed) meta(name string) (*raft.SnapshotMeta, error) {
	b, err := os.ReadFile(filepath.Join(s.dir, name, "meta.json"))
	if err != nil {
		return nil, fmt.Errorf("read meta.json: %w", err)
	}
	var m raft.SnapshotMeta
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("read meta.json: it is damaged: %w", err)
	}
	f, err := os.Open(filepath.Join(s.dir, name, "state.bin"))
	if err != nil {
		return nil, fmt.Errorf("read the seal: %w", err)
	}
	defer f.Close()
	typ, payload, err := frame.NewReader(f, maxSealBytes).Next()
	if err == nil && typ != frameSeal {
		err = fmt.Errorf("there is a frame of type %q in its place", typ)
	}
	if err != nil {
		return nil, fmt.Errorf("read the seal: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read the seal: %w", err)
	}
	wants, err := json.Marshal(sealOf(&m))
	switch {
	case err != nil:
		return nil, fmt.Errorf("compare meta.json with the seal: %w", err)
	case m.Size != st.Size():
		return nil, fmt.Errorf("state.bin has %d bytes, meta.json says %d", st.Size(), m.Size)
	case m.ID != name, m.Version != raft.SnapshotVersionMax, !bytes.Equal(wants, payload):
		return nil, fmt.Errorf("meta.json differs from what was sealed: it says %s (version %d), the seal %.1024s", wants, m.Version, payload)
	}
	m.Size -= int64(frame.HeaderBytes + len(payload))
	m.Peers = nil // of version 0 only, and nobody vouches for it
	return &m, nil
}
