package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// agree fails the test when two nodes, each of which answers from its own state, show
// different commands.
func (w *world) agree(t *testing.T) {
	t.Helper()
	var first []string
	for i, c := range w.each {
		var rows []string
		for before := ""; ; {
			r, err := agentplanev1.NewCommandServiceClient(c).ListCommands(within(t, 20*time.Second), &agentplanev1.ListCommandsRequest{Limit: 1000, Before: before})
			if err != nil {
				t.Fatalf("list the commands of node %s: %v", w.nodes[i].Name, err)
			}
			for _, row := range r.Commands {
				rows = append(rows, row.String())
				before = row.Id
			}
			if !r.More {
				break
			}
		}
		if i == 0 {
			first = rows
		}
		if len(rows) != len(first) {
			t.Errorf("node %s shows %d commands, node %s %d", w.nodes[0].Name, len(first), w.nodes[i].Name, len(rows))
			continue
		}
		for n := range rows {
			if rows[n] != first[n] {
				t.Errorf("node %s shows %s, node %s %s", w.nodes[0].Name, first[n], w.nodes[i].Name, rows[n])
				break
			}
		}
	}
}

// sameState fails the test when two nodes hold different states at one index. It answers how
// many hashes were compared: nodes of the older version know nothing of them.
func (w *world) sameState(t *testing.T) int {
	t.Helper()
	var states []client.NodeState
	highest := uint64(0)
	await(t, w.shape.gateBound(), "all nodes answer for one index", func() error {
		states = states[:0]
		index := uint64(0) // whatever is there: nothing is written any more, or not much
		if highest > 0 {
			index = highest + 1
		}
		answers := make(chan client.NodeState, len(w.each))
		for i, c := range w.each {
			member := &agentplanev1.Member{Name: w.nodes[i].Name}
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				r, err := agentplanev1.NewClusterServiceClient(c).CheckState(ctx, &agentplanev1.CheckStateRequest{Index: index})
				answers <- client.NodeState{Member: member, State: r, Err: err}
			}()
		}
		var err error
		for range w.each {
			s := <-answers
			switch {
			case s.Err == nil:
				states = append(states, s)
				highest = max(highest, s.State.GetAppliedIndex())
			case client.AsError(s.Err).Code != codes.Unimplemented:
				err = fmt.Errorf("node %s: %w", s.Member.Name, s.Err)
			}
		}
		if err == nil && !client.SameIndex(states) {
			err = fmt.Errorf("they are at different indexes: %s", stateLines(states))
		}
		return err
	})
	if !client.SameState(states) {
		t.Errorf("nodes hold different states: %s", stateLines(states))
	}
	return len(states)
}

func stateLines(states []client.NodeState) string {
	var parts []string
	for _, s := range states {
		parts = append(parts, fmt.Sprintf("%s has %x at %d", s.Member.GetName(), s.State.GetHash(), s.State.GetAppliedIndex()))
	}
	return strings.Join(parts, ", ")
}
