package schedule

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// failer is what *testing.T and *rapid.T share.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// world is one real state machine with one agent, and engines that lead it one after
// the other. The cluster's time is the bubble's and a skew.
type world struct {
	t failer
	m *fsm.Machine

	mu      sync.Mutex // guards all below
	index   uint64
	term    uint64
	skew    time.Duration
	lost    int            // answers that get lost after the entry was applied
	twice   int            // entries whose mutations come a second time
	refusal error          // of the planner
	gone    []string       // agents that are not there any more
	largest int            // mutations of one proposal
	heavy   int            // bytes of one proposal
	size    int            // of envelopes; 0 = small
	settled map[string]int // by schedule and slot: how often a slot was settled
	order   []fired
}

// fired is a slot as the feed tells of it first.
type fired struct {
	schedule string
	slot, at time.Time
	command  bool
	reason   string
	missed   int
}

func newWorld(t failer) *world {
	w := &world{t: t, m: fsm.New(fsm.Options{}), settled: make(map[string]int)}
	w.elect()
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_InitCluster{InitCluster: &raftlogv1.InitCluster{
		ClusterId: "c", Incarnation: &raftlogv1.Incarnation{Number: 1, Id: make([]byte, 16)}, FeatureLevel: 1,
		Node: &raftlogv1.Node{Id: "a", Name: "a", Address: "a:1", PublicKey: []byte("key"), CaCertificate: []byte("ca"), StartCounter: 1, FeatureLevel: 1},
	}}})
	const token = "00000000-0000-7000-8000-000000000001"
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CreateToken{CreateToken: &raftlogv1.CreateToken{
		Token: &raftlogv1.Token{Id: token, Kind: raftlogv1.TokenKind_TOKEN_KIND_AGENT, ProofKey: []byte("p"), AuthenticatorHash: make([]byte, 32), MaxUses: 1}, Ttl: int64(time.Hour),
	}}})
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: &raftlogv1.EnrollAgent{AgentId: "web-1", Name: "web-1", PublicKey: []byte("k"), TokenId: token}}})
	return w
}

// now is the cluster's time.
func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.skew)
}

// elect makes a new leader: what earlier ones propose changes nothing from here on.
func (w *world) elect() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index++
	w.term++
	w.m.Apply(w.index, w.term, &raftlogv1.Entry{Format: raftlogv1.EntryFormat, Now: time.Now().Add(w.skew).UnixNano(), Mutations: []*raftlogv1.Mutation{
		{Kind: &raftlogv1.Mutation_TakeOffice{TakeOffice: &raftlogv1.TakeOffice{NodeId: "a", Term: w.term}}},
	}})
}

func (w *world) applyUnder(epoch uint64, mutations ...*raftlogv1.Mutation) []*raftlogv1.Outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.m.View()
	w.index++
	outcomes := w.m.Apply(w.index, w.term, &raftlogv1.Entry{
		Format: raftlogv1.EntryFormat, LeaderEpoch: epoch, Now: time.Now().Add(w.skew).UnixNano(), Mutations: mutations,
	})
	w.note(before, w.m.View())
	return outcomes
}

// note writes down which slots an entry has settled: what a schedule says of a slot for
// the first time, or says otherwise.
func (w *world) note(before, after *fsm.View) {
	for s := range after.Schedules() {
		old, _ := before.Schedule(s.GetName())
		if old == s {
			continue
		}
		was := make(map[int64]*raftlogv1.Firing)
		for _, f := range old.GetFirings() {
			was[f.GetSlot()] = f
		}
		for _, f := range s.GetFirings() {
			if have := was[f.GetSlot()]; f.GetRunBy() != "" || f.GetResult() == raftlogv1.FiringResult_FIRING_RESULT_WAITING ||
				have != nil && have.GetResult() == f.GetResult() && have.GetIndex() == f.GetIndex() {
				continue
			}
			w.settled[fmt.Sprint(s.GetName(), " ", f.GetSlot())]++
			w.order = append(w.order, fired{
				s.GetName(), time.Unix(0, f.GetSlot()).UTC(), time.Unix(0, f.GetAt()).UTC(), f.GetCommandId() != "", f.GetReason(), int(f.GetMissed()),
			})
		}
	}
}

func (w *world) epoch() uint64 {
	_, office := w.m.Published()
	return office.GetEpoch()
}

func (w *world) must(mut *raftlogv1.Mutation) *raftlogv1.Outcome {
	w.t.Helper()
	o := w.applyUnder(w.epoch(), mut)[0]
	if o.GetCode() != raftlogv1.Code_CODE_OK {
		w.t.Fatalf("%v: %v", mut, o)
	}
	return o
}

// office is a leader's way into the state: it ends with the leader's epoch, and stands
// still while the leader is frozen.
type office struct {
	w     *world
	epoch uint64

	mu     sync.Mutex // guards frozen
	frozen chan struct{}
}

var errLost = errors.New("the answer was lost")

func (o *office) Propose(ctx context.Context, mutations ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	o.mu.Lock()
	frozen := o.frozen
	o.mu.Unlock()
	if frozen != nil {
		select {
		case <-frozen:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	outcomes := o.w.applyUnder(o.epoch, mutations...)
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	if o.w.twice > 0 {
		o.w.twice--
		o.w.mu.Unlock()
		o.w.applyUnder(o.epoch, mutations...)
		o.w.mu.Lock()
	}
	o.w.largest, o.w.heavy = max(o.w.largest, len(mutations)), max(o.w.heavy, proto.Size(&raftlogv1.Entry{Mutations: mutations}))
	if o.w.lost > 0 {
		o.w.lost--
		return nil, errLost
	}
	return outcomes, nil
}

func (o *office) freeze() (thaw func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.frozen = make(chan struct{})
	frozen := o.frozen
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.frozen = nil
		close(frozen)
	}
}

// PlanScheduled means the one agent, or answers what the test wants.
func (w *world) PlanScheduled(_ *fsm.View, _ *raftlogv1.Schedule, commandID string, _ int64) (*raftlogv1.SubmitCommand, []string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refusal != nil {
		return nil, nil, w.refusal
	}
	return &raftlogv1.SubmitCommand{
		Id: commandID, Envelope: make([]byte, max(1, w.size)), Digest: []byte("d"), AgentOrdinals: []uint32{1}, Ttl: int64(time.Hour), RunTimeout: 1, Release: 1, QueueOffline: true,
	}, w.gone, nil
}

func (w *world) refuse(reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refusal = nil
	if reason != "" {
		w.refusal = agentplanev1.Refusal(codes.NotFound, &agentplanev1.ErrorDetail{Reason: reason}, "nobody is meant")
	}
}

func (w *world) jump(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.skew += d
}

// lead runs an Engine in the office that the state shows, until stop is called.
func (w *world) lead(edit ...func(*Options)) (o *office, stop func()) {
	w.t.Helper()
	o = &office{w: w, epoch: w.epoch()}
	options := Options{Machine: w.m, Proposer: o, Planner: w, Now: w.now}
	for _, f := range edit {
		f(&options)
	}
	e, err := New(options)
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	synctest.Wait()
	return o, func() {
		w.t.Helper()
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("Run = %v", err)
		}
	}
}

// put makes or changes a schedule.
func (w *world) put(name string, edit func(*raftlogv1.ScheduleSpec)) {
	w.t.Helper()
	have, _ := w.m.View().Schedule(name)
	id := uuid.UUID{6: 0x70, 8: 0x80, 15: byte(len(name)), 14: name[len(name)-1]}
	ms := w.now().UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	spec := &raftlogv1.ScheduleSpec{
		Command: []byte("c"), Cron: "0 * * * *", Ttl: int64(time.Minute), Overlap: raftlogv1.Overlap_OVERLAP_ALLOW, Missed: raftlogv1.Missed_MISSED_SKIP,
	}
	if edit != nil {
		edit(spec)
	}
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PutSchedule{PutSchedule: &raftlogv1.PutSchedule{
		Name: name, Id: id.String(), Spec: spec, ExpectedVersion: have.GetVersion(), By: "ann",
	}}})
}

// endCommands cancels what is open, so that it is done.
func (w *world) endCommands() {
	for c := range w.m.View().OpenCommands() {
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CancelCommand{CancelCommand: &raftlogv1.CancelCommand{CommandId: c.GetId()}}})
	}
}

// told are the slots that were settled since it was asked last.
func (w *world) told() []fired {
	w.mu.Lock()
	defer w.mu.Unlock()
	told := w.order
	w.order = nil
	return told
}

// bounds are how many mutations and how many bytes a proposal had at most.
func (w *world) bounds() (mutations, bytes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.largest, w.heavy
}

// pass lets time pass and what follows from it happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
