package sim

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// book is the log that nodes have agreed on, as it was written to their disks, and
// samples of the states that they made of it. It is safe for concurrent use.
type book struct {
	mu      sync.Mutex // guards what follows; never held while waiting
	entries map[uint64]*raft.Log
	began   map[uint64]time.Time // when the entry was first written
	samples map[uint64]sample    // by index
	taken   int
	differ  []string // samples that differ at an equal index
}

// sample is the hash of a node's state.
type sample struct {
	node string
	hash [sha256.Size]byte
}

func newBook() *book {
	return &book{entries: make(map[uint64]*raft.Log), began: make(map[uint64]time.Time), samples: make(map[uint64]sample)}
}

// wrote notes entries that a node writes. What has committed is known in the end: no
// leader of a later term lacks it, so that of all entries at one index which any node
// ever wrote the one of the latest term is it.
func (b *book) wrote(logs []*raft.Log) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range logs {
		if old := b.entries[l.Index]; old == nil || old.Term < l.Term {
			b.entries[l.Index], b.began[l.Index] = l, time.Now()
		}
	}
}

// sample notes what a node has made of the log so far.
func (b *book) sample(node string, v *fsm.View) {
	s := sample{node, v.Hash()}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken++
	if old, known := b.samples[v.Index()]; known && old.hash != s.hash {
		b.differ = append(b.differ, fmt.Sprintf("I9: %s and %s differed at index %d", old.node, node, v.Index()))
	}
	b.samples[v.Index()] = s
}

// written is a log that tells the book, and its node's life what becomes of writes.
type written struct {
	raft.LogStore
	book *book
	node *node
	life *nodeLife
}

func (w written) StoreLog(l *raft.Log) error { return w.StoreLogs([]*raft.Log{l}) }

func (w written) StoreLogs(logs []*raft.Log) error {
	w.book.wrote(logs) // first: of what is torn by a power cut, a part may count
	w.life.writes.Add(1)
	began := time.Now()
	err := w.LogStore.StoreLogs(logs)
	if time.Since(began) >= slowWrite {
		w.node.slowWrites.Add(1)
	}
	return err
}

// IsMonotonic is that of the log below.
func (w written) IsMonotonic() bool {
	m, ok := w.LogStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

// audit applies the log up to the index to a state of its own and judges each outcome
// by what must never be granted, and has judge judge each state by what was seen of it, and
// by the entry that led to it, which was first written at that time; what was no entry is nil.
// It answers what is wrong.
func (b *book) audit(last uint64, judge func(*fsm.View, *raftlogv1.Entry, []*raftlogv1.Outcome, time.Time) []string) (wrong []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	wrong = b.differ
	m, a := fsm.Raft{Machine: fsm.New(fsm.Options{})}, newAuditor()
	for i := uint64(1); i <= last; i++ {
		l := b.entries[i]
		if l == nil {
			return append(wrong, fmt.Sprintf("I1: entry %d has committed, and no node has written it", i))
		}
		_, office := m.Published()
		answer, _ := m.Apply(l).([]*raftlogv1.Outcome)
		var e *raftlogv1.Entry
		if l.Type == raft.LogCommand {
			var err error
			if e, err = raftlogv1.Unseal(l.Data); err != nil {
				return append(wrong, fmt.Sprintf("I1: entry %d: %v", i, err))
			}
			a.entry(office.GetEpoch(), e, answer)
		}
		if wrong = append(wrong, judge(m.View(), e, answer, b.began[i])...); len(wrong) > 5 {
			break
		}
		if s, ok := b.samples[i]; ok && s.hash != m.View().Hash() {
			return append(wrong, fmt.Sprintf("I9: at index %d %s had another state than the log makes", i, s.node))
		}
	}
	return append(wrong, a.wrong...)
}

// auditor knows of each outcome what must not have been granted. It is a second,
// smaller state machine, in which a fault of the first does not hide.
type auditor struct {
	sessions map[string]grant  // by agent, the newest
	claimed  map[string]bool   // attempts
	canceled map[string]bool   // commands
	digests  map[string][]byte // by command
	wrong    []string
}

// grant is a session epoch and the node that holds it.
type grant struct {
	epoch uint64
	node  string
}

func newAuditor() *auditor {
	return &auditor{
		sessions: make(map[string]grant), claimed: make(map[string]bool), canceled: make(map[string]bool), digests: make(map[string][]byte),
	}
}

func (a *auditor) bad(format string, args ...any) {
	if len(a.wrong) < 5 { // one mutant makes many
		a.wrong = append(a.wrong, fmt.Sprintf(format, args...))
	}
}

// entry judges an entry that came while the office was held.
func (a *auditor) entry(office uint64, e *raftlogv1.Entry, outcomes []*raftlogv1.Outcome) {
	if len(outcomes) != len(e.GetMutations()) {
		a.bad("an entry of %d mutations was answered by %d outcomes", len(e.GetMutations()), len(outcomes))
		return
	}
	for i, m := range e.GetMutations() {
		o := outcomes[i]
		if m.GetTakeOffice() == nil && e.GetLeaderEpoch() != office && o.GetCode() != raftlogv1.Code_CODE_NOT_APPLIED {
			a.bad("I4: a mutation of leader %d was answered %s when %d was in office: %v", e.GetLeaderEpoch(), o.GetCode(), office, m)
		}
		if o.GetCode() == raftlogv1.Code_CODE_OK {
			a.granted(m, o)
		}
	}
}

// granted judges a mutation that was done, or that stood.
func (a *auditor) granted(m *raftlogv1.Mutation, o *raftlogv1.Outcome) {
	switch k := m.GetKind().(type) {
	case *raftlogv1.Mutation_OpenSession:
		now := grant{o.GetNumber(), k.OpenSession.GetNodeId()}
		if old := a.sessions[k.OpenSession.GetAgentId()]; now.epoch < old.epoch || now.epoch == old.epoch && !o.GetRepeated() {
			a.bad("I5: session %d was granted after %d: %v", now.epoch, old.epoch, m)
		}
		a.sessions[k.OpenSession.GetAgentId()] = now
	case *raftlogv1.Mutation_ReadySession:
		a.holds(m, k.ReadySession.GetAgentId(), k.ReadySession.GetSessionEpoch(), k.ReadySession.GetNodeId())
	case *raftlogv1.Mutation_EndSession:
		a.holds(m, k.EndSession.GetAgentId(), k.EndSession.GetSessionEpoch(), k.EndSession.GetNodeId())
	case *raftlogv1.Mutation_ReportAttempt:
		a.holds(m, k.ReportAttempt.GetAgentId(), k.ReportAttempt.GetSessionEpoch(), k.ReportAttempt.GetNodeId())
	case *raftlogv1.Mutation_ClaimAttempt:
		c := k.ClaimAttempt
		a.holds(m, c.GetAgentId(), c.GetSessionEpoch(), c.GetNodeId())
		if at := fmt.Sprintf("%s/%d", c.GetInvocationId(), c.GetAttempt()); !o.GetRepeated() {
			if a.claimed[at] {
				a.bad("I2: attempt %s was claimed twice: %v", at, m)
			}
			a.claimed[at] = true
			if command, _, _ := strings.Cut(c.GetInvocationId(), "."); a.canceled[command] {
				a.bad("I6: attempt %s was claimed after the cancel: %v", at, m)
			}
		}
	case *raftlogv1.Mutation_CancelCommand:
		a.canceled[k.CancelCommand.GetCommandId()] = true
	case *raftlogv1.Mutation_SubmitCommand:
		c := k.SubmitCommand
		if old, there := a.digests[c.GetId()]; there && !bytes.Equal(old, c.GetDigest()) {
			a.bad("I8: %s was submitted with another content, and accepted", c.GetId())
		}
		a.digests[c.GetId()] = c.GetDigest()
	}
}

// holds wants that who speaks in the name of a session holds the newest one.
func (a *auditor) holds(m *raftlogv1.Mutation, agent string, epoch uint64, node string) {
	if now := a.sessions[agent]; epoch != now.epoch || node != "" && node != now.node {
		a.bad("I5: session %d on node %q was heard while %d on node %q was the newest: %v", epoch, node, now.epoch, now.node, m)
	}
}
