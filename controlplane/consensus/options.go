package consensus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Options says how a Host runs. Fields without a default are required.
type Options struct {
	NodeID raft.ServerID // random and kept for ever, never a host name
	// Dir holds log, votes, snapshots and log mark; the caller has locked it.
	Dir string
	// Log is "wal" (default) or "bolt".
	Log string
	// Disk is used instead of Dir and Log when set; Close of the host closes it.
	Disk *Disk
	// Transport must also be a raft.WithPreVote. Close of the host closes it.
	Transport raft.Transport
	Machine   Machine
	Peers     Peers

	Profile           Profile       // LAN
	SnapshotInterval  time.Duration // 10 s
	SnapshotThreshold uint64        // 8 192 entries
	TrailingLogs      uint64        // 10 240 entries
	SnapshotRetain    int           // 2
	SnapshotBytes     uint64        // 128 MiB appended also bring a snapshot
	TrailingBytes     uint64        // 256 MiB at most are kept behind it, about

	MaxBatchMutations int // 256, which is also the most
	MaxBatchBytes     int // 512 KiB
	MaxQueueMutations int // 16 384
	MaxQueueBytes     int // 64 MiB
	MaxInFlight       int // 2

	// RunOffice runs the leader-only loops of one term. Its ctx ends with the
	// term, and it returns soon after. An error while the term lasts makes the
	// node hand over leadership; nil means that it has nothing more to do.
	RunOffice func(ctx context.Context, o Office) error
	// OfficeEndsWithin is how long RunOffice may go on after its ctx has ended
	// before that is fatal. 30 s
	OfficeEndsWithin time.Duration

	// Fatal ends the process: the host cannot go on. It is called once, and may
	// return in tests only.
	Fatal func(error)
	// StallAfter is how long one call of log or stable store may take before that
	// is fatal. 10 s
	StallAfter time.Duration

	// FreeBytes answers the free space for logs. Default: of Dir.
	FreeBytes func() (uint64, error)
	// FreeFloorBytes is the free space below which the node does not lead. 256 MiB
	FreeFloorBytes uint64
	// WallClock is time.Now.
	WallClock func() time.Time
	// Reckoned is the cluster's time as this node's state and its monotonic clock have it,
	// once that is known. Nil is never.
	Reckoned func() (time.Time, bool)
	// MaxClockDistance is how far the node's wall clock may be from the voters'
	// median for it to lead. 30 s
	MaxClockDistance time.Duration
	// CheckInterval is how often space and clocks are looked at. 5 s
	CheckInterval time.Duration

	Logger hclog.Logger // nothing is logged when nil
}

// Office is one term of leadership that has begun: the state holds the take-office
// entry.
type Office struct {
	Epoch uint64 // with which entries are stamped
	Term  uint64
	Index uint64 // of the take-office entry
}

// FreeFloorBytes is the free space below which a node does not lead, unless
// Options say otherwise.
const FreeFloorBytes = 256 << 20

const (
	// maxAppendEntries and logCacheEntries: with raft's 64 a follower that lags
	// reads the log back in small pieces (measured: the tail of the latencies).
	maxAppendEntries = 512
	logCacheEntries  = 512
	// enqueueTimeout bounds how long raft may let a batch wait before it takes it.
	enqueueTimeout = 5 * time.Second
)

func (o Options) withDefaults() (Options, error) {
	switch {
	case o.NodeID == "":
		return o, errors.New("consensus: NodeID is empty")
	case o.Transport == nil, o.Machine == nil, o.Peers == nil, o.Fatal == nil:
		return o, errors.New("consensus: Transport, Machine, Peers and Fatal are required")
	case o.Dir == "" && o.Disk == nil:
		return o, errors.New("consensus: one of Dir and Disk is required")
	case o.MaxBatchMutations > raftlogv1.MaxMutations:
		return o, fmt.Errorf("consensus: MaxBatchMutations %d is above the maximum %d", o.MaxBatchMutations, raftlogv1.MaxMutations)
	}
	if _, ok := o.Transport.(raft.WithPreVote); !ok {
		return o, fmt.Errorf("consensus: transport %T cannot do pre-votes, without which a returning node deposes a healthy leader", o.Transport)
	}
	if o.Profile == (Profile{}) {
		o.Profile = LAN
	}
	o.Log = cmp.Or(o.Log, "wal")
	o.SnapshotInterval = cmp.Or(o.SnapshotInterval, 10*time.Second)
	o.SnapshotThreshold = cmp.Or(o.SnapshotThreshold, 8192)
	o.TrailingLogs = cmp.Or(o.TrailingLogs, 10240)
	o.SnapshotRetain = cmp.Or(o.SnapshotRetain, 2)
	o.SnapshotBytes = cmp.Or(o.SnapshotBytes, 128<<20)
	o.TrailingBytes = cmp.Or(o.TrailingBytes, 256<<20)
	o.MaxBatchMutations = cmp.Or(o.MaxBatchMutations, raftlogv1.MaxMutations)
	o.MaxBatchBytes = cmp.Or(o.MaxBatchBytes, 512<<10)
	o.MaxQueueMutations = cmp.Or(o.MaxQueueMutations, 16384)
	o.MaxQueueBytes = cmp.Or(o.MaxQueueBytes, 64<<20)
	o.MaxInFlight = cmp.Or(o.MaxInFlight, 2)
	o.OfficeEndsWithin = cmp.Or(o.OfficeEndsWithin, 30*time.Second)
	o.StallAfter = cmp.Or(o.StallAfter, 10*time.Second)
	o.FreeFloorBytes = cmp.Or(o.FreeFloorBytes, FreeFloorBytes)
	o.MaxClockDistance = cmp.Or(o.MaxClockDistance, 30*time.Second)
	o.CheckInterval = cmp.Or(o.CheckInterval, 5*time.Second)
	if o.FreeBytes == nil && o.Dir != "" {
		dir := o.Dir
		o.FreeBytes = func() (uint64, error) { return FreeBytes(dir) }
	}
	if o.WallClock == nil {
		o.WallClock = time.Now
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	return o, nil
}

func (o Options) raftConfig(notify chan<- bool) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = o.NodeID
	c.HeartbeatTimeout = o.Profile.Heartbeat
	c.ElectionTimeout = o.Profile.Election
	c.LeaderLeaseTimeout = o.Profile.Lease
	c.CommitTimeout = o.Profile.Commit
	c.MaxAppendEntries = maxAppendEntries
	c.SnapshotInterval = o.SnapshotInterval
	c.SnapshotThreshold = o.SnapshotThreshold
	c.TrailingLogs = o.TrailingLogs
	c.NotifyCh = notify
	c.NoLegacyTelemetry = true
	// A removed node is told by its operator, not by raft pulling the floor away.
	c.ShutdownOnRemove = false
	c.Logger = Quiet(o.Logger.Named("raft"))
	return c
}
