package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

func (a *app) keysCmd() *cobra.Command {
	c := &cobra.Command{Use: "keys", Short: "look after the keys that nodes encrypt their gossip with"}
	c.AddCommand(
		&cobra.Command{
			Use: "list", Short: "list the gossip keys by their ids", Args: args(0, 0, ""), Annotations: is(reads), RunE: a.keysList,
		},
		a.keysRotate(),
	)
	return c
}

func (a *app) keysList(cmd *cobra.Command, _ []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		keys, err := s.Keys(cmd.Context(), client.Stale(a.flags.stale))
		if err != nil {
			return err
		}
		return printList(a, keys, []column[*agentplanev1.GossipKey]{
			{"ID", false, (*agentplanev1.GossipKey).GetId},
			{"STATE", false, func(k *agentplanev1.GossipKey) string { return stateName(k.State) }},
			{"MADE", false, func(k *agentplanev1.GossipKey) string { return clock(k.MadeAt) }},
		})
	})
}

const (
	// rotationPatience is how long a rotation is waited for: each of its steps waits a minute
	// for nodes that do not answer.
	rotationPatience = 5 * time.Minute
	// rotationEvery is how often it is looked at.
	rotationEvery = 200 * time.Millisecond
)

func (a *app) keysRotate() *cobra.Command {
	var noWait bool
	c := &cobra.Command{
		Use: "rotate", Short: "put a new gossip key in the place of the one in use", Args: args(0, 0, ""),
		Long: `Put a new gossip key in the place of the one in use: it is installed on all nodes, then
used by all, then the old one is removed. Whoever leads goes on with that by itself,
also when this command is ended. A node that does not answer is waited for, a minute at
each step; it gets the new key with the log when it comes back. While a rotation goes on,
another one is not begun: this waits for that one.`,
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.with(cmd.Context(), func(s *session) error {
			keys, err := s.Keys(cmd.Context())
			if err != nil {
				return err
			}
			if len(keys) == 0 {
				return errors.New("the cluster has no gossip key")
			}
			if len(keys) > 1 {
				a.talk("a rotation goes on already")
			}
			r, err := s.RotateKey(cmd.Context(), keys[0].Id)
			if err != nil {
				return err
			}
			if !noWait {
				if r.Done, err = a.awaitKey(cmd.Context(), s, r.Id); err != nil {
					return err
				}
			}
			return printOne(a, toObject(r), func(w io.Writer) {
				switch {
				case r.Done:
					fmt.Fprintf(w, "all nodes use gossip key %s alone\n", r.Id)
				case noWait:
					fmt.Fprintf(w, "gossip key %s comes into use\n", r.Id)
				default:
					fmt.Fprintf(w, "gossip key %s has given way to another one already\n", r.Id)
				}
			})
		})
	}
	c.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until all nodes use the new key alone")
	return c
}

// awaitKey waits until the key is the only one, and tells how far it has come. It answers whether
// that is so: another rotation may have replaced it.
func (a *app) awaitKey(ctx context.Context, s *session, id string) (alone bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, rotationPatience)
	defer cancel()
	tick := time.NewTicker(rotationEvery)
	defer tick.Stop()
	told := agentplanev1.GossipKeyState_GOSSIP_KEY_STATE_UNSPECIFIED
	for {
		keys, err := s.Keys(ctx)
		if err != nil {
			return false, hinted(err, "the rotation goes on by itself; see agentctl keys list")
		}
		at := slices.IndexFunc(keys, func(k *agentplanev1.GossipKey) bool { return k.Id == id })
		switch {
		case at < 0:
			return false, nil
		case len(keys) == 1:
			return true, nil
		}
		for _, k := range keys {
			if k.Id != id || k.State == told {
				continue
			}
			told = k.State
			if told == agentplanev1.GossipKeyState_GOSSIP_KEY_STATE_NEXT {
				a.talk("key %s is being installed on all nodes", id)
			} else {
				a.talk("key %s is in use; the old one goes when all nodes use it", id)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false, &failure{
				code: exitUnavailable, err: fmt.Errorf("key %s was not alone in use within %v", id, rotationPatience),
				hint: "the rotation goes on by itself; see agentctl keys list, and agentctl cluster status --why",
			}
		}
	}
}
