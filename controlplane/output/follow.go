package output

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// followEvery is the least time between two looks at the rows of a follow, and
	// followIdle the longest.
	followEvery = 50 * time.Millisecond
	followIdle  = time.Second
	// leaderless is how long a follow goes on without a leader: nothing new will be seen
	// here, and another node may know more.
	leaderless = 10 * time.Second
	// failedFor is how long a node is passed over that could not be read from.
	failedFor = time.Second
	// sourceRow is the source of an attempt whose result holds all.
	sourceRow = "row"
)

// Why an attempt's output may not be all; see FollowEnd.
const (
	incompleteNeverRan    = "never_ran"
	incompleteNotEnded    = "not_ended"
	incompleteNotReceived = "not_received"
	incompleteNoHolder    = "not_reachable"
)

// follow is one stream to an operator. It belongs to the handler.
type follow struct {
	s       *Service
	req     *agentplanev1.FollowRequest
	stream  grpc.ServerStreamingServer[agentplanev1.FollowResponse]
	sources *sources
	targets map[Key]*target
	byID    map[string]*target // by invocation: the attempt that is followed
	failed  map[string]time.Time
	failing map[string]bool // nothing has come from there since it failed
	astray  bool            // an attempt has lost its source
}

// unreachable ends a follow on a node that does not reach where the output is: another
// node may.
func (f *follow) unreachable(t *target, node string) error {
	return refusal(codes.Unavailable, "not_reachable", "this node does not reach node %q, which takes the output of agent %q", node, t.name)
}

// target is one attempt of the command.
type target struct {
	key     Key
	agentID string
	name    string
	have    Ends
	ended   bool
	source  string // where it is read from: this node, a peer, or the row; empty: nowhere
	totals  *agentplanev1.OutputTotals
	caught  bool                 // its source has nothing more now
	since   time.Time            // when it was first seen to have ended
	avoid   map[string]time.Time // nodes that did not have it, and when
	lost    time.Time            // since when it has no source; zero while it has one
}

// Follow sends what programs of a command print.
func (s *Service) Follow(req *agentplanev1.FollowRequest, stream grpc.ServerStreamingServer[agentplanev1.FollowResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	v := s.o.Machine.View()
	if _, here := v.Command(req.GetCommandId()); !here || req.GetNoWait() {
		// Before it is said that there is none, this node must have heard of all.
		var err error
		if v, err = s.o.Read(ctx, false); err != nil {
			return err
		}
	}
	f := &follow{
		s: s, req: req, stream: stream, sources: s.newSources(ctx),
		targets: make(map[Key]*target), byID: make(map[string]*target), failed: make(map[string]time.Time), failing: make(map[string]bool),
	}
	defer f.sources.close()
	defer cancel()
	if err := f.begin(v); err != nil {
		return err
	}
	return f.run(ctx)
}

// begin finds whom is meant.
func (f *follow) begin(v *fsm.View) error {
	if _, found := v.Command(f.req.GetCommandId()); !found {
		return refusal(codes.NotFound, "no_command", "there is no command %q", f.req.GetCommandId())
	}
	cursors := make(map[Key]*agentplanev1.FollowCursor)
	for _, c := range f.req.GetCursors() {
		cursors[Key{c.GetInvocationId(), c.GetAttempt()}] = c
	}
	var ids []string
	for i := range v.Invocations(f.req.GetCommandId()) {
		a, _ := v.Agent(i.GetAgentId())
		if want := f.req.GetAgent(); want != "" && want != i.GetAgentId() && want != a.GetName() {
			continue
		}
		n := f.req.GetAttempt()
		if n > i.GetAttempt() {
			return refusal(codes.NotFound, "no_attempt", "invocation %q is at attempt %d", i.GetId(), i.GetAttempt())
		}
		ids = append(ids, i.GetAgentId())
		f.place(i, cmp.Or(n, i.GetAttempt()), a.GetName(), cursors)
	}
	switch {
	case len(ids) == 0:
		return agentplanev1.Refusal(codes.NotFound, &agentplanev1.ErrorDetail{
			Reason: "no_invocation", Hint: fmt.Sprintf(`see "agentctl commands get %s"; an agent that was removed is named by its id: its name is gone`, f.req.GetCommandId()),
		}, "command %q means no agent %q", f.req.GetCommandId(), f.req.GetAgent())
	case f.req.GetAgent() != "" && len(ids) > 1 && !slices.Contains(ids, f.req.GetAgent()):
		return agentplanev1.Refusal(codes.InvalidArgument, &agentplanev1.ErrorDetail{Reason: "ambiguous", Hint: "name one by its id"},
			"agents %q all have the name %q", ids, f.req.GetAgent())
	}
	return nil
}

func (f *follow) place(i *raftlogv1.Invocation, attempt uint32, name string, cursors map[Key]*agentplanev1.FollowCursor) {
	k := Key{i.GetId(), attempt}
	t := &target{key: k, agentID: i.GetAgentId(), name: name}
	if c := cursors[k]; c != nil {
		t.have, t.ended = endsOf(c.GetHave()), c.GetEnded()
	}
	f.targets[k], f.byID[i.GetId()] = t, t
}

func (f *follow) run(ctx context.Context) error {
	look := time.NewTimer(0)
	defer look.Stop()
	looked := time.Now()
	moved := make(chan struct{}, 1)
	defer f.s.awaitIndex(ctx, moved)()
	for {
		select {
		case <-ctx.Done():
			return refusal(codes.Canceled, "canceled", "the follow was ended by its caller")
		case a := <-f.sources.arrivals:
			if err := f.arrived(a); err != nil { //nolint:contextcheck // the sources have the follow's
				return err
			}
			if f.astray {
				f.astray = false
				look.Reset(max(0, f.interval()-time.Since(looked)))
			}
			continue
		case <-moved:
			look.Reset(max(0, f.interval()-time.Since(looked)))
			continue
		case <-look.C:
		}
		looked = time.Now()
		look.Reset(followIdle)
		done, err := f.look(f.s.o.Machine.View()) //nolint:contextcheck // as above
		if err != nil {
			return err
		}
		if done {
			return f.stream.Send(&agentplanev1.FollowResponse{Done: true, Index: f.s.o.Machine.View().Index()})
		}
	}
}

// interval paces the looks by what they cost.
func (f *follow) interval() time.Duration {
	return followEvery + time.Duration(len(f.byID))*10*time.Microsecond
}

// awaitIndex sends on moved whenever the state has moved, until the function that it
// returns is called.
func (s *Service) awaitIndex(ctx context.Context, moved chan<- struct{}) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for index := s.o.Machine.View().Index(); ; {
			if s.o.Machine.WaitPublished(ctx, index+1) != nil {
				return
			}
			index = s.o.Machine.View().Index()
			select {
			case moved <- struct{}{}:
			default:
			}
			if !pause(ctx, followEvery) {
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// look reads the rows: it finds for each attempt where its output is read, and ends those
// of which nothing more will come. done says that all have ended.
func (f *follow) look(v *fsm.View) (done bool, err error) {
	if _, found := v.Command(f.req.GetCommandId()); !found {
		return false, refusal(codes.NotFound, "no_command", "command %q has been purged", f.req.GetCommandId())
	}
	if seen := f.s.o.LeaderSeen; seen != nil && time.Since(seen()) > leaderless {
		return false, agentplanev1.Refusal(codes.Unavailable, &agentplanev1.ErrorDetail{
			Reason: "no_leader", Hint: `a majority of the voters must be up; see "agentctl cluster status --why"`,
		}, "this node has known no leader for %v", time.Since(seen()).Round(time.Second))
	}
	done = true
	for id, t := range f.byID {
		row, found := v.Invocation(id)
		if !found {
			continue
		}
		if f.req.GetAttempt() == 0 && t.key.Attempt < row.GetAttempt() && t.ended {
			f.place(row, row.GetAttempt(), t.name, nil) // it was tried again
			t = f.byID[id]
		}
		if !t.ended {
			if err := f.decide(v, row, t); err != nil {
				return false, err
			}
		}
		done = done && t.ended && (f.req.GetAttempt() != 0 || t.key.Attempt == row.GetAttempt())
	}
	return done, nil
}

// decide finds the source of an attempt, or ends it.
func (f *follow) decide(v *fsm.View, row *raftlogv1.Invocation, t *target) error {
	over := final(row, t.key.Attempt)
	if over && t.since.IsZero() {
		t.since = time.Now()
	}
	record := recorded(row, t.key.Attempt)
	switch {
	case t.totals != nil && over:
		return f.end(row, t, t.totals, "")
	case whole(row, t.key.Attempt):
		return f.sendRow(row, t)
	case record != nil:
		if !f.use(t, f.holder(t, record)) && t.source == "" && time.Since(t.since) > f.s.o.Patience {
			return f.end(row, t, nil, incompleteNoHolder)
		}
		return nil
	case over && row.GetResult() == nil && neverRan(row):
		return f.end(row, t, nil, incompleteNeverRan)
	}
	// It runs, or its output is on its way: the agent's node has it, as far as it came.
	s, _ := v.Session(t.agentID)
	live := s != nil && s.GetState() <= raftlogv1.SessionState_SESSION_STATE_READY
	node := s.GetNodeId()
	if here, _ := f.s.o.Store.has(t.key); !live && here {
		node = f.s.o.NodeID
	}
	unclaimed := !over && t.key.Attempt == row.GetAttempt() && row.GetFence() == 0
	if node != "" && !unclaimed && !f.recently(t, node) {
		f.use(t, node)
	}
	if t.source != "" || node == "" || unclaimed || !live {
		t.lost = time.Time{}
	} else if t.lost.IsZero() {
		t.lost = time.Now()
	} else if !over && f.failing[node] && time.Since(t.lost) > f.s.o.Patience {
		return f.unreachable(t, node)
	}
	stale := t.source == "" || t.caught
	switch {
	case !stale:
	case f.req.GetNoWait() && !over:
		if t.source != "" || !live || unclaimed {
			return f.end(row, t, nil, incompleteNotEnded)
		}
	case over && (time.Since(t.since) > f.s.o.Patience || f.req.GetNoWait() && !live):
		return f.end(row, t, nil, incompleteNotReceived)
	}
	return nil
}

// neverRan says that the attempt had no program that could have printed.
func neverRan(i *raftlogv1.Invocation) bool {
	switch i.GetState() {
	case raftlogv1.AttemptState_ATTEMPT_STATE_SKIPPED, raftlogv1.AttemptState_ATTEMPT_STATE_EXPIRED, raftlogv1.AttemptState_ATTEMPT_STATE_REJECTED,
		raftlogv1.AttemptState_ATTEMPT_STATE_CANCELED:
		return true
	default:
		return false
	}
}

// recently says that a node could not be read from a moment ago, or did not have the
// attempt.
func (f *follow) recently(t *target, node string) bool {
	return time.Since(f.failed[node]) < failedFor || time.Since(t.avoid[node]) < failedFor
}

// holder picks a node that keeps the output: this one, the one it is read from now, or
// another that has not failed just now.
func (f *follow) holder(t *target, r *raftlogv1.OutputRecord) string {
	nodes := r.GetNodeIds()
	if here := f.s.o.NodeID; slices.Contains(nodes, here) && !f.recently(t, here) {
		return here
	}
	linked := f.s.o.Peers.Linked()
	for _, id := range nodes {
		if _, there := linked[id]; there && !f.recently(t, id) && id != f.s.o.NodeID {
			return id
		}
	}
	return ""
}

// use reads an attempt from a node; false when there is none.
func (f *follow) use(t *target, node string) bool {
	if node == "" {
		return false
	}
	if t.source == node {
		return true
	}
	if t.source != "" {
		f.sources.drop(t.source, t.key)
	}
	t.source, t.caught = node, false
	f.sources.add(node, t.key, t.have)
	return true
}

// arrived takes what a source gave.
func (f *follow) arrived(a arrival) error {
	if a.err != nil {
		f.failed[a.node], f.failing[a.node] = time.Now(), true
		for _, t := range f.targets {
			if t.source == a.node {
				t.source, t.caught, f.astray = "", false, true
			}
		}
		return nil
	}
	delete(f.failing, a.node)
	t := f.targets[a.batch.Key]
	if t == nil || t.ended || t.source != a.node {
		return nil // of a source that was left
	}
	if a.batch.Absent {
		t.caught = true
		if t.since.IsZero() {
			return nil // it has not begun
		}
		// A node that is said to keep it does not: its disk was lost, or full.
		if t.avoid == nil {
			t.avoid = make(map[string]time.Time)
		}
		t.avoid[a.node] = time.Now()
		f.sources.drop(a.node, t.key)
		t.source, f.astray = "", true
		return nil
	}
	item := f.item(t)
	for _, c := range a.batch.Chunks {
		part, err := t.have.take(c)
		if err != nil {
			// The source was placed for another reader's state; it begins anew.
			f.sources.drop(a.node, t.key)
			t.source, f.astray = "", true
			break
		}
		if part != nil {
			item.Chunks = append(item.Chunks, part)
		}
	}
	t.caught = a.batch.CaughtUp || a.batch.Totals != nil
	if a.batch.Totals != nil && t.source != "" {
		t.totals = a.batch.Totals
	}
	if err := f.send(item); err != nil || t.totals == nil {
		return err
	}
	if row, found := f.s.o.Machine.View().Invocation(t.key.Invocation); found && final(row, t.key.Attempt) {
		return f.end(row, t, t.totals, "")
	}
	return nil
}

func (f *follow) item(t *target) *agentplanev1.FollowItem {
	return &agentplanev1.FollowItem{InvocationId: t.key.Invocation, Attempt: t.key.Attempt, AgentId: t.agentID, AgentName: t.name}
}

func (f *follow) send(item *agentplanev1.FollowItem) error {
	if len(item.GetChunks()) == 0 && item.GetEnd() == nil {
		return nil
	}
	return f.stream.Send(&agentplanev1.FollowResponse{Items: []*agentplanev1.FollowItem{item}, Index: f.s.o.Machine.View().Index()})
}

// sendRow sends what the result holds and was not sent yet, and the end.
func (f *follow) sendRow(row *raftlogv1.Invocation, t *target) error {
	if t.source != "" && t.source != sourceRow {
		f.sources.drop(t.source, t.key)
	}
	t.source = sourceRow
	item, totals := f.item(t), &agentplanev1.OutputTotals{}
	for i, o := range []*raftlogv1.Output{row.GetResult().GetStdout(), row.GetResult().GetStderr()} {
		data := slices.Concat(o.GetHead(), o.GetTail())
		sum := sha256.Sum256(data)
		total := &agentplanev1.OutputTotal{Bytes: uint64(len(data)), Sha256: sum[:]}
		if i == 0 {
			totals.Stdout = total
		} else {
			totals.Stderr = total
		}
		if len(data) == 0 {
			continue
		}
		part, err := t.have.take(&agentplanev1.OutputChunk{Stream: streamOf(i), Data: data})
		if err == nil && part != nil {
			item.Chunks = append(item.Chunks, part)
		}
	}
	if err := f.send(item); err != nil {
		return err
	}
	return f.end(row, t, totals, "")
}

func (f *follow) end(row *raftlogv1.Invocation, t *target, totals *agentplanev1.OutputTotals, incomplete string) error {
	if t.source != "" && t.source != sourceRow {
		f.sources.drop(t.source, t.key)
	}
	t.ended, t.source = true, ""
	state := agentplanev1.AttemptState(row.GetState())
	if t.key.Attempt < row.GetAttempt() {
		state = agentplanev1.AttemptState_ATTEMPT_STATE_LOST
	}
	item := f.item(t)
	item.End = &agentplanev1.FollowEnd{State: state, Totals: totals, Incomplete: incomplete}
	return f.send(item)
}
