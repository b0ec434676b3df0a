package dispatch

import (
	"context"
	"errors"
	"time"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// follow reads the change feed for all sessions and wakes those of agents of which
// something changed. The view is published before the feed, so that whoever is woken
// finds the change.
func (d *Dispatcher) follow(ctx context.Context, cursor fsm.Cursor) error {
	d.sweeper.all(d.o.Machine.View())
	for {
		changes, next, err := d.o.Machine.ChangesIn(ctx, cursor, spreads...)
		if compacted := (*fsm.CompactedError)(nil); errors.As(err, &compacted) {
			d.count.compactions.Add(1)
			d.o.Logger.Info("the change feed was compacted: reading all again", "cursor", cursor.String(), "floor", compacted.Floor.String())
			var view *fsm.View
			view, cursor = d.o.Machine.ViewAndWatch()
			d.clock.observe(view.Now())
			d.sweeper.all(view)
			d.wakeAll(markChanged)
			d.checkTrust()
			continue
		}
		if err != nil {
			return err
		}
		d.clock.observe(d.o.Machine.Now())
		cursor = next
		d.spread(changes)
	}
}

// spreads are the tables of whose changes somebody is woken.
var spreads = []fsm.Table{fsm.TableInvocations, fsm.TableSessions, fsm.TableAgents, fsm.TableNodes, fsm.TableCluster, fsm.TableLocks, fsm.TablePlaces}

// spread wakes whoever the changes are about.
func (d *Dispatcher) spread(changes []fsm.Change) {
	trust, places := false, false
	for _, c := range changes {
		switch c.Table {
		case fsm.TableInvocations:
			if row, ok := c.Row.(*raftlogv1.Invocation); ok && row != nil {
				d.wake(row.GetAgentId(), markChanged)
			}
		case fsm.TableSessions:
			d.wake(c.Key, markChanged)
			if row, ok := c.Row.(*raftlogv1.Session); !ok || row.GetNodeId() == d.o.NodeID {
				d.sweeper.suspect(c.Key)
			}
		case fsm.TableAgents:
			d.wake(c.Key, markChanged)
		case fsm.TableNodes, fsm.TableCluster:
			trust = true
		case fsm.TableLocks, fsm.TablePlaces:
			places = true
		}
	}
	if places {
		d.places.changed()
	}
	if trust {
		d.checkTrust()
	}
}

// watch looks once a second at what has no feed: contact with a leader, and the bundle.
func (d *Dispatcher) watch(ctx context.Context) error {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		d.checkTrust()
		d.checkLeader()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (d *Dispatcher) checkTrust() {
	index := d.o.Bundle().GetIndex()
	d.mu.Lock()
	newer := index > d.trust
	d.trust = max(d.trust, index)
	d.mu.Unlock()
	if newer {
		d.wakeAll(markTrust)
	}
}

func (d *Dispatcher) checkLeader() {
	seen := d.o.LeaderSeen()
	d.mu.Lock()
	if seen.Before(d.started) {
		seen = d.started // a node that begins has its time to find the leader
	}
	has := time.Since(seen) <= d.o.NoLeaderAfter
	lost := d.leader && !has
	d.leader = has
	d.mu.Unlock()
	if lost {
		d.o.Logger.Warn("no contact with a leader: sending agents to other nodes", "since", time.Since(seen).Round(time.Millisecond))
		d.wakeAll(markNoLeader)
	}
}
