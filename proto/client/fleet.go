package client

import (
	"context"
	"iter"
	"slices"
	"strings"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// Agents yields the agents that the selector means by name; the empty one means all.
// withFacts adds what they report of their hosts. After an error nothing more comes.
func (c *Client) Agents(ctx context.Context, selector string, withFacts bool, opts ...ReadOption) iter.Seq2[*agentplanev1.Agent, error] {
	return func(yield func(*agentplanev1.Agent, error) bool) {
		r, err := agentplanev1.NewFleetServiceClient(c).ListAgents(ctx, &agentplanev1.ListAgentsRequest{
			Selector: selector, WithFacts: withFacts, Stale: readOf(opts).stale,
		})
		if err != nil {
			yield(nil, err)
			return
		}
		byName := func(x, y *agentplanev1.Agent) int {
			return strings.Compare(x.GetName()+"\x00"+x.GetId(), y.GetName()+"\x00"+y.GetId())
		}
		for _, a := range slices.SortedFunc(slices.Values(r.GetAgents()), byName) {
			if !yield(a, nil) {
				return
			}
		}
	}
}

// Collect returns what a list yields, or its first error.
func Collect[T any](list iter.Seq2[T, error]) ([]T, error) {
	var all []T
	for item, err := range list {
		if err != nil {
			return nil, err
		}
		all = append(all, item)
	}
	return all, nil
}

// Agent returns one agent, by id or by a name that only one has, with its facts.
func (c *Client) Agent(ctx context.Context, agent string, opts ...ReadOption) (*agentplanev1.Agent, error) {
	r, err := agentplanev1.NewFleetServiceClient(c).GetAgent(ctx, &agentplanev1.GetAgentRequest{Agent: agent, Stale: readOf(opts).stale})
	return r.GetAgent(), err
}

// LabelChange is what becomes of the labels of an agent.
type LabelChange struct {
	Set    map[string]string
	Remove []string
	// ExpectedVersion refuses the change when the labels have another version; 0 = any.
	ExpectedVersion uint64
}

// SetLabels changes the labels of an agent and returns it.
func (c *Client) SetLabels(ctx context.Context, agent string, change LabelChange) (*agentplanev1.Agent, error) {
	r, err := agentplanev1.NewFleetServiceClient(c).SetLabels(ctx, &agentplanev1.SetLabelsRequest{
		Agent: agent, Set: change.Set, Remove: change.Remove, ExpectedVersion: change.ExpectedVersion,
	})
	return r.GetAgent(), err
}

// RemoveAgent removes an agent for ever; what it has not finished becomes LOST.
func (c *Client) RemoveAgent(ctx context.Context, agent string) error {
	_, err := agentplanev1.NewFleetServiceClient(c).RemoveAgent(ctx, &agentplanev1.RemoveAgentRequest{Agent: agent})
	return err
}

// ReadmitAgent takes an agent out of quarantine, and returns it.
func (c *Client) ReadmitAgent(ctx context.Context, agent string) (*agentplanev1.Agent, error) {
	r, err := agentplanev1.NewFleetServiceClient(c).ReadmitAgent(ctx, &agentplanev1.ReadmitAgentRequest{Agent: agent})
	return r.GetAgent(), err
}
