package consensus

import (
	"errors"
	"testing"

	"github.com/hashicorp/raft"
)

// A transfer that raft never takes out of its queue ends with the node all the same.
func TestTransferThatRaftForgetsEndsWithTheNode(t *testing.T) {
	config := raft.DefaultConfig()
	config.LocalID = "a"
	config.LogLevel = "OFF"
	store := raft.NewInmemStore()
	_, transport := raft.NewInmemTransport("a")
	r, err := raft.NewRaft(config, &raft.MockFSM{}, store, store, raft.NewInmemSnapshotStore(), transport)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Shutdown().Error() }()
	closed := make(chan struct{})
	f := r.LeadershipTransferToServer("b", "b")
	if !endsWith(f, closed) {
		t.Fatalf("a %T has no ShutdownCh any more: see whether raft answers all its transfers by now", f)
	}
	close(closed)
	if err := f.Error(); !errors.Is(err, raft.ErrRaftShutdown) && !errors.Is(err, raft.ErrNotLeader) {
		t.Errorf("it ended with %v", err)
	}
}
