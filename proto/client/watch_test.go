package client_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client/clienttest"
)

func TestWatchGoesOnElsewhere(t *testing.T) {
	for name, hurt := range map[string]func(*clienttest.Node){
		"the node dies":    (*clienttest.Node).Kill,
		"the node freezes": (*clienttest.Node).Freeze,
	} {
		t.Run(name, func(t *testing.T) {
			cluster := clienttest.NewCluster(t, 2)
			cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{After: 1500 * time.Millisecond, Stdout: "done\n"})
			var left []string
			opts := quick(cluster.Options())
			opts.OnFailover = func(address string, _ error) { left = append(left, address) }
			c := newClient(t, opts)
			id, _, err := submit(t, c, cluster)
			if err != nil {
				t.Fatal(err)
			}
			snapshots, responses := 0, 0
			var last *agentplanev1.WatchCommandResponse
			err = c.WatchCommand(t.Context(), &agentplanev1.WatchCommandRequest{Id: id, WithOutput: true}, func(r *agentplanev1.WatchCommandResponse) error {
				if responses++; responses == 1 {
					hurt(cluster.Nodes[0])
				}
				if r.Snapshot {
					snapshots++
				}
				last = r
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if snapshots != 2 {
				t.Errorf("%d snapshots, want 2: one from each node", snapshots)
			}
			if got := string(last.Invocations[0].Stdout.Head); got != "done\n" {
				t.Errorf("last output = %q, want %q", got, "done\n")
			}
			if len(left) != 1 || left[0] != cluster.Nodes[0].Address {
				t.Errorf("left %v, want the first node once", left)
			}
		})
	}
}

func TestWatchEndsWithTheHandlersError(t *testing.T) {
	cluster := clienttest.NewCluster(t, 1)
	c := newClient(t, quick(cluster.Options()))
	enough := errors.New("enough")
	err := c.WatchAgents(t.Context(), &agentplanev1.WatchAgentsRequest{}, func(*agentplanev1.WatchAgentsResponse) error { return enough })
	if !errors.Is(err, enough) {
		t.Errorf("error = %v, want the handler's", err)
	}
	// Also when there was nothing more to come.
	cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{Stdout: "done\n"})
	id, _, err := submit(t, c, cluster)
	if err != nil {
		t.Fatal(err)
	}
	err = c.WatchCommand(t.Context(), &agentplanev1.WatchCommandRequest{Id: id}, func(r *agentplanev1.WatchCommandResponse) error {
		if r.GetCommand().GetState() == agentplanev1.CommandState_COMMAND_STATE_DONE {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Errorf("at the end of a command the error = %v, want the handler's", err)
	}
}

func TestWatchEndsWithARefusal(t *testing.T) {
	cluster := clienttest.NewCluster(t, 2)
	c := newClient(t, quick(cluster.Options()))
	err := c.WatchCommand(t.Context(), &agentplanev1.WatchCommandRequest{Id: "none"}, func(*agentplanev1.WatchCommandResponse) error { return nil })
	if status.Code(err) != codes.NotFound {
		t.Errorf("error = %v, want NotFound", err)
	}
}

func TestWatchGivesUpWhenNobodyIsLeft(t *testing.T) {
	cluster := clienttest.NewCluster(t, 1)
	cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{After: -1})
	opts := quick(cluster.Options())
	opts.WatchPatience, opts.Unreachable = 500*time.Millisecond, 100*time.Millisecond
	c := newClient(t, opts)
	id, _, err := submit(t, c, cluster)
	if err != nil {
		t.Fatal(err)
	}
	err = c.WatchCommand(t.Context(), &agentplanev1.WatchCommandRequest{Id: id}, func(*agentplanev1.WatchCommandResponse) error {
		cluster.Nodes[0].Kill()
		return nil
	})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("error = %v, want Unavailable", err)
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	cluster := clienttest.NewCluster(t, 1)
	c := newClient(t, quick(cluster.Options()))
	ctx, cancel := context.WithCancel(t.Context())
	err := c.WatchAgents(ctx, &agentplanev1.WatchAgentsRequest{}, func(*agentplanev1.WatchAgentsResponse) error {
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) || status.Code(err) != codes.Canceled {
		t.Errorf("error = %v, want Canceled", err)
	}
}

// A quiet watch is not a frozen node.
func TestQuietWatchStaysWhereItIs(t *testing.T) {
	cluster := clienttest.NewCluster(t, 2)
	cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{After: 1500 * time.Millisecond})
	c := newClient(t, quick(cluster.Options()))
	id, _, err := submit(t, c, cluster)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WatchCommand(t.Context(), &agentplanev1.WatchCommandRequest{Id: id}, func(*agentplanev1.WatchCommandResponse) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if calls := cluster.Nodes[1].Calls(); len(calls) != 0 {
		t.Errorf("the other node was asked %v", calls)
	}
}
