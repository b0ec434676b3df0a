package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// quota is how much of an attempt's output nodes keep, in half of the lives: as little
	// as can be asked for.
	quota = 64 << 10
	// retained is for how long commands are kept in few lives: as short as can be asked for.
	retained = time.Minute
	// resultHolds is how much a result holds, or less.
	resultHolds = 8 << 10
	// recordsWithin is how long it may take in a healed world until all output is recorded.
	recordsWithin = 90 * time.Second
)

// printsOf draws how much a program prints: what a result holds, what is above that, or
// more than a host or, where they keep little, the nodes keep.
func printsOf(rng *rand.Rand) []string {
	most := []int{2 << 10, 30 << 10, 100 << 10}[rng.IntN(3)]
	out := rng.IntN(most)
	return []string{fmt.Sprint(out), fmt.Sprint(rng.IntN(most) / 8)}
}

// seen is what somebody was shown of an attempt's output. It notes what must not be.
type seen struct {
	w       *World
	who     string
	p       *printing
	have    [2]uint64 // both streams, gaps included
	missing [2]uint64
	end     *agentplanev1.FollowEnd
}

// take adds an item. What it shows has to be what the program printed, each byte once, and
// what is left out has to be named.
func (s *seen) take(i *agentplanev1.FollowItem) {
	bad := func(format string, args ...any) {
		s.w.fault("%s of the output of %s@%d: %s", s.who, i.GetInvocationId(), i.GetAttempt(), fmt.Sprintf(format, args...))
	}
	ends, _ := s.p.state()
	for _, c := range i.GetChunks() {
		n := int(c.GetStream()) - 1
		size := uint64(len(c.GetData())) + c.GetGapBytes()
		switch {
		case n < 0 || n > 1 || c.GetOffset() != s.have[n]:
			bad("byte %d of stream %d was expected, and %d bytes from %d on came", s.have[max(n, 0)%2], n+1, size, c.GetOffset())
			return
		case c.GetOffset()+size > ends[n]:
			bad("%d bytes from %d on came of stream %d, the program has printed %d", size, c.GetOffset(), n+1, ends[n])
		case c.GetGapBytes() == 0 && !bytes.Equal(c.GetData(), printedText(s.p.at, uint8(n+1), c.GetOffset(), size)):
			bad("%q came of stream %d at %d, and was not printed there", clip(c.GetData()), n+1, c.GetOffset())
		case c.GetGapBytes() > 0 && c.GetGapReason() == "agent_limit" && !s.p.rotated(uint8(n+1), c.GetOffset(), size),
			c.GetGapBytes() > 0 && c.GetGapReason() == "quota" && s.w.seed%2 != 0,
			c.GetGapBytes() > 0 && c.GetGapReason() != "agent_limit" && c.GetGapReason() != "quota":
			bad("%d bytes from %d on are missing of stream %d for %q, which nothing explains", c.GetGapBytes(), c.GetOffset(), n+1, c.GetGapReason())
		}
		s.have[n] += size
		s.missing[n] += c.GetGapBytes()
	}
	if s.end != nil && i.GetEnd() != nil {
		bad("it ended twice")
	}
	if i.GetEnd() != nil {
		s.end = i.GetEnd()
	}
	if t := s.end.GetTotals(); t != nil {
		for n, total := range []*agentplanev1.OutputTotal{t.GetStdout(), t.GetStderr()} {
			// It may have shown more than is kept: what one node had that was cut off, and the host
			// has thrown away since. What is kept is read whole by others, gap by gap.
			if total.GetBytes() != s.have[n] || total.GetMissing() < s.missing[n] {
				bad("it ended as whole with %d bytes of stream %d, %d missing; the totals are %v", s.have[n], n+1, s.missing[n], total)
			}
		}
	}
}

func clip(b []byte) []byte { return b[:min(len(b), 40)] }

// follower gathers what one follow shows.
type follower struct {
	w    *World
	who  string
	seen map[execute.Attempt]*seen
}

func (f *follower) take(i *agentplanev1.FollowItem) {
	at := execute.Attempt{InvocationID: i.GetInvocationId(), Number: i.GetAttempt()}
	s := f.seen[at]
	if s == nil {
		s = &seen{w: f.w, who: f.who, p: f.w.printingOf(at)}
		f.seen[at] = s
	}
	s.take(i)
}

// printingOf is what an attempt printed on whichever host it ran.
func (w *World) printingOf(at execute.Attempt) *printing {
	for _, a := range w.agents {
		a.Host.mu.Lock()
		p := a.printings[at]
		a.Host.mu.Unlock()
		if p != nil {
			return p
		}
	}
	return &printing{at: at} // it never ran
}

// followOutput follows what was submitted last and prints, again and again, to its end or
// for some seconds, through whatever becomes of nodes meanwhile.
func (o *operators) followOutput(ctx context.Context) {
	d := o.desk(0x666f)
	defer d.close()
	var done *command
	for ctx.Err() == nil {
		time.Sleep(time.Duration(d.rng.IntN(500)) * time.Millisecond)
		o.mu.Lock()
		last := done
		for _, c := range o.commands {
			if c.prints && c.submit.acked > 0 {
				last = c
			}
		}
		o.mu.Unlock()
		if last == done {
			continue
		}
		done = last
		one, cancel := context.WithTimeout(ctx, 10*time.Second)
		f := follower{o.w, "a follow", make(map[execute.Attempt]*seen)}
		err := d.any().Follow(one, &agentplanev1.FollowRequest{CommandId: last.id}, func(i *agentplanev1.FollowItem) error {
			f.take(i)
			o.mu.Lock()
			o.reads++
			o.mu.Unlock()
			return nil
		})
		cancel()
		o.heed(err)
		if e := client.AsError(err); e != nil && e.Code == codes.Internal {
			o.w.fault("a follow of %s: %v", last.id, err) // the client has found a hole
		}
		o.w.trace.Note("operator", "followed %s: %v", last.id, err)
	}
}

// keepsOutput waits in a healed world until what was printed is recorded, and reads all of
// it through every node.
func (w *World) keepsOutput(ctx context.Context) error {
	if w.trade != tradeOutput {
		return nil
	}
	for began := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		why := w.unrecorded()
		if why == "" {
			break
		}
		if ctx.Err() != nil || time.Since(began) > recordsWithin {
			return errors.New(why)
		}
	}
	var nodes errgroup.Group
	for i, n := range w.nodes {
		nodes.Go(func() error { return w.readsOutput(ctx, n, i == 0) })
	}
	return nodes.Wait()
}

// unrecorded says what was printed on a host that still has all of it, and that its agent
// still offers.
func (w *World) unrecorded() string {
	v := w.newest()
	for _, a := range w.agents {
		if w.wasPutBack(a.name) { // the journal does not know of what it holds
			continue
		}
		a.Host.mu.Lock()
		var all []*printing
		for at, d := range a.attempts {
			if p := a.printings[at]; p != nil && !d.since.IsZero() {
				all = append(all, p)
			}
		}
		a.Host.mu.Unlock()
		for _, p := range all {
			ends, done := p.state()
			row, _ := v.Invocation(p.at.InvocationID)
			if lostTwice := ends[0]+ends[1] <= resultHolds && lost(v, p.at) && row.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_LOST; lostTwice {
				continue // a result that says LOST of what the cluster calls so is not taken
			}
			// Of output that is partly thrown away nodes may hold different parts, of which no
			// two are ever the same: that is shown, and not recorded.
			torn := p.rotated(execute.Stdout, 0, ends[0]) || p.rotated(execute.Stderr, 0, ends[1])
			if !torn && !done && row != nil && !holdsAll(row, p.at, ends) {
				return fmt.Sprintf("%s@%d printed %v on %s, and nobody has told the agent that it is kept: %v", p.at.InvocationID, p.at.Number, ends, a.name, row)
			}
		}
	}
	return ""
}

// holdsAll says that the row has everything that was printed.
func holdsAll(row *raftlogv1.Invocation, at execute.Attempt, ends [2]uint64) bool {
	if row.GetAttempt() != at.Number {
		return false
	}
	for n, o := range []*raftlogv1.Output{row.GetResult().GetStdout(), row.GetResult().GetStderr()} {
		if uint64(len(o.GetHead())+len(o.GetTail())) != ends[n] {
			return false
		}
	}
	return true
}

// recordOf is what is recorded of the attempt.
func recordOf(row *raftlogv1.Invocation, at execute.Attempt) *raftlogv1.OutputRecord {
	for _, r := range row.GetOutputs() {
		if r.GetAttempt() == at.Number {
			return r
		}
	}
	return nil
}

// readsOutput reads through one node what is recorded, of which a node that keeps it is left
// in the cluster, and where rows are asked for what they hold.
func (w *World) readsOutput(ctx context.Context, n *node, rows bool) error {
	o, v := w.operators, w.newest()
	c, err := o.clientOf([]string{n.address()})
	if err != nil {
		return err
	}
	defer o.disconnect(c)
	o.mu.Lock()
	all := slices.Clone(o.commands)
	o.mu.Unlock()
	for _, cmd := range all {
		if !cmd.prints {
			continue
		}
		for row := range v.Invocations(cmd.id) {
			at := execute.Attempt{InvocationID: row.GetId(), Number: row.GetAttempt()}
			p := w.printingOf(at)
			ends, done := p.state()
			// What the agent was told is in the state by now, and may not have been in the view
			// when the reading began.
			row, there := w.newest().Invocation(row.GetId())
			if !there {
				continue // purged meanwhile
			}
			record := recordOf(row, at)
			kept := slices.ContainsFunc(record.GetNodeIds(), func(id string) bool {
				k, there := v.Node(id)
				return there && k.GetRemovedAt() == 0
			})
			whole := rows && record == nil && ends != [2]uint64{} && holdsAll(row, at, ends)
			if rows {
				w.count(record, whole)
			}
			if kept || whole {
				if err := w.readOutput(ctx, c, row, &seen{w: w, who: "through " + n.name, p: p}); err != nil {
					return fmt.Errorf("read the output of %s through %s: %w", row.GetId(), n.name, err)
				}
			}
			// An agent that the cluster has given up may have a result still to tell, which holds all.
			untold := row.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_LOST && row.GetResult().GetEndedAt() == 0
			if a, there := v.Agent(row.GetAgentId()); done && there && !w.wasPutBack(a.GetName()) && record == nil && !untold && !holdsAll(row, at, ends) {
				w.fault("I1: the agent was told that the output of %s is kept, and it is not: %v", row.GetId(), row)
			}
		}
	}
	return nil
}

// readOutput reads what is kept of an attempt's output, all of which has to come. It begins
// anew when the node does not reach another.
func (w *World) readOutput(ctx context.Context, c *client.Client, row *raftlogv1.Invocation, s *seen) error {
	for empty := *s; ; *s = empty {
		err := readOnce(ctx, c, row, s)
		switch e := client.AsError(err); {
		case e != nil && e.Code == codes.Unavailable && ctx.Err() == nil:
			time.Sleep(500 * time.Millisecond)
			continue
		case e != nil && e.Reason == "certificate_expired" && ctx.Err() == nil: // its issuer was replaced
			w.operators.renew(ctx)
			time.Sleep(500 * time.Millisecond)
			continue
		case e != nil && w.purging() && e.Reason == "no_command":
			return nil
		case err != nil:
			return err
		}
		if ends, _ := s.p.state(); s.end.GetTotals() == nil || s.have != ends {
			w.fault("%s: of the output of %s, of which %v bytes were printed, came %v and then %v: %v", s.who, row.GetId(), ends, s.have, s.end, row)
		}
		return nil
	}
}

// readOnce reads what there is of an attempt, in one stream.
func readOnce(ctx context.Context, c *client.Client, row *raftlogv1.Invocation, s *seen) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	stream, err := agentplanev1.NewCommandServiceClient(c).Follow(ctx, &agentplanev1.FollowRequest{
		CommandId: row.GetCommandId(), Agent: row.GetAgentId(), NoWait: true,
	})
	if err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) || r.GetDone() {
			return nil
		}
		if err != nil {
			return err
		}
		for _, i := range r.GetItems() {
			s.take(i)
		}
		if s.end != nil { // that the whole follow is done is said a while later
			return nil
		}
	}
}

// count notes what there was to be judged.
func (w *World) count(record *raftlogv1.OutputRecord, whole bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case record != nil:
		w.accepted["output kept"]++
		if record.GetStdout().GetMissing()+record.GetStderr().GetMissing() > 0 {
			w.accepted["output with gaps"]++
		}
	case whole:
		w.accepted["output in a row"]++
	}
}

// judgeRecords wants that no output and no content of commands is recorded, and with that
// acknowledged, that one node alone keeps: of two voters and more two are needed. Where two nodes were replaced there may
// have been one voter for a while, which the log of entries does not tell.
func judgeRecords(v *fsm.View, e *raftlogv1.Entry, outcomes []*raftlogv1.Outcome) (wrong []string) {
	replaced := 0
	for node := range v.Nodes() {
		if node.GetState() >= raftlogv1.NodeState_NODE_STATE_REMOVED {
			replaced++
		}
	}
	if replaced >= 2 {
		return nil
	}
	for n, m := range e.GetMutations() {
		if outcomes[n].GetCode() != raftlogv1.Code_CODE_OK {
			continue
		}
		if r := m.GetRecordOutput(); r != nil && len(r.GetRecord().GetNodeIds()) < 2 {
			wrong = append(wrong, fmt.Sprintf("I1: at index %d output was recorded that one node alone keeps: %v", v.Index(), r))
		}
		if r := m.GetRecordBlob(); r != nil {
			if row, there := v.Blob(r.GetBlob().GetSha256()); there && len(row.GetNodeIds()) < 2 {
				wrong = append(wrong, fmt.Sprintf("I1: at index %d a content was recorded that one node alone keeps: %v", v.Index(), r))
			}
		}
	}
	return wrong
}

// purging says that commands are purged in this life, perhaps before it is healed: of
// them is judged only that none was started twice. It takes so long that few do it.
func (w *World) purging() bool { return w.trade == tradeOutput && w.seed%96 == 2 }

// purges waits until all commands are purged, and their output on every node with them.
func (w *World) purges() error {
	if !w.purging() {
		return nil
	}
	for began := time.Now(); ; time.Sleep(time.Second) {
		files := 0
		for _, n := range w.nodes {
			w.mu.Lock()
			dir := n.dir
			w.mu.Unlock()
			files += len(outputFiles(filepath.Join(dir, "output")))
		}
		left := w.newest().CommandCount()
		if left == 0 && files == 0 {
			return nil
		}
		if waited := time.Since(began); waited > 3*retained {
			return fmt.Errorf("after %v there are %d commands, and output of %d attempts", waited, left, files)
		}
	}
}
