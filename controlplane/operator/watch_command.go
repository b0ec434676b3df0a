package operator

import (
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// watchWake is how often a quiet watch looks whether there is a leader.
const watchWake = time.Second

// commandWatch follows one command for one stream.
type commandWatch struct {
	follower
	id         string
	withOutput bool
	stream     grpc.ServerStreamingServer[agentplanev1.WatchCommandResponse]
	done       bool
}

// WatchCommand sends a copy of the command and its invocations, then what changed,
// coalesced, until it is done. What does not fit into one message comes in several,
// of which only the last carries the command: whoever has seen it DONE has seen
// everything. The first message of a copy says so.
func (c *Commands) WatchCommand(req *agentplanev1.WatchCommandRequest, stream grpc.ServerStreamingServer[agentplanev1.WatchCommandResponse]) error {
	ctx := stream.Context()
	if _, here := c.o.Machine.View().Command(req.GetId()); !here {
		// Before it is said that there is none, this node must have heard of all.
		v, err := c.read(ctx, false)
		if err != nil {
			return err
		}
		if _, err := c.command(v, req.GetId()); err != nil {
			return err
		}
	}
	w := &commandWatch{follower: follower{s: c.service}, id: req.GetId(), withOutput: req.GetWithOutput(), stream: stream}
	if err := w.copy(); err != nil {
		return err
	}
	for !w.done {
		changes, again, err := w.next(ctx, watchWake)
		if err != nil {
			return err
		}
		if again {
			err = w.copy()
		} else {
			err = w.send(changes)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// copy sends everything and begins to follow behind it.
func (w *commandWatch) copy() error {
	v, cursor := w.s.o.Machine.ViewAndWatch()
	w.cursor = cursor
	row, found := v.Command(w.id)
	if !found {
		return w.purged()
	}
	var rows []*raftlogv1.Invocation
	for i := range v.Invocations(w.id) {
		rows = append(rows, i)
	}
	return w.messages(v, row, rows, v.Index(), true)
}

// send sends what of the changes is of the command: of each row the last state.
func (w *commandWatch) send(changes []fsm.Change) error {
	var row *raftlogv1.Command
	var rows []*raftlogv1.Invocation
	at := make(map[string]int)
	for _, c := range changes {
		switch {
		case c.Table == fsm.TableCommands && c.Key == w.id:
			if c.Row == nil {
				return w.purged()
			}
			row, _ = c.Row.(*raftlogv1.Command)
		case c.Table == fsm.TableInvocations && strings.HasPrefix(c.Key, w.id+".") && c.Row != nil:
			i, _ := c.Row.(*raftlogv1.Invocation)
			if n, seen := at[c.Key]; seen {
				if keepsLast {
					rows[n] = i
				}
				continue
			}
			at[c.Key] = len(rows)
			rows = append(rows, i)
		}
	}
	if row == nil && len(rows) == 0 {
		return nil
	}
	return w.messages(w.s.o.Machine.View(), row, rows, w.cursor.Index, false)
}

// messages sends the rows in as many messages as they need. row is nil when only
// invocations changed.
func (w *commandWatch) messages(v *fsm.View, row *raftlogv1.Command, rows []*raftlogv1.Invocation, index uint64, snapshot bool) error {
	m := &agentplanev1.WatchCommandResponse{Index: index, Snapshot: snapshot}
	size := 0
	for _, i := range rows {
		r := invocationRow(v, i, w.withOutput)
		n := proto.Size(r)
		if size += n; size > chunkBytes && len(m.Invocations) > 0 {
			if err := w.stream.Send(m); err != nil {
				return err
			}
			m, size = &agentplanev1.WatchCommandResponse{Index: index}, n
		}
		m.Invocations = append(m.Invocations, r)
	}
	if row != nil {
		m.Command = commandRow(row)
		w.done = row.GetState() == raftlogv1.CommandState_COMMAND_STATE_DONE
	}
	return w.stream.Send(m)
}

func (w *commandWatch) purged() error {
	return w.s.refuse(codes.NotFound, "no_command", "command %q has been purged", w.id)
}
