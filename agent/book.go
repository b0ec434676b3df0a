package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/agent/journal"
	"github.com/agentplane/agentplane/proto/identity"
)

const (
	oldJournals  = "journal-old-" // and a number that grows
	keptJournals = 3
)

// errOtherJournal says that an attempt was started under an earlier journal: its result
// cannot be journalled, and the cluster has called it LOST.
var errOtherJournal = fmt.Errorf("the attempt belongs to an earlier journal: %w", execute.ErrNoRecord)

// book is the journal of the moment, which readmission and a failed disk replace. It is
// the journal that package execute writes to.
type book struct {
	dir  string // the data directory
	opts func() journal.Options
	time func() int64 // the cluster's, as far as it is known
	log  hclog.Logger

	// j is replaced by who holds mu. It is read without: mu is held while the disk is waited for.
	j atomic.Pointer[journal.Journal]

	mu        sync.RWMutex  // guards what follows
	retention time.Duration // with which j was opened
	intents   map[execute.Attempt]journal.Intent

	stepped func(journal.Key) // called when a further step is about to be started; may be nil
	awaited func(journal.Key) // called when an announced reboot begins to be waited for; may be nil
}

func openBook(dir string, opts func() journal.Options, clock func() int64, log hclog.Logger) (*book, error) {
	b := &book{dir: dir, opts: opts, time: clock, log: log, intents: map[execute.Attempt]journal.Intent{}}
	return b, b.openLocked()
}

func (b *book) openLocked() error {
	o := b.opts()
	j, err := journal.Open(filepath.Join(b.dir, journalDir), o)
	if err != nil {
		return err
	}
	b.j.Store(j)
	b.retention = o.Retention
	switch found := j.Opening(); {
	case found.Damage != nil:
		b.log.Error("the journal was damaged and a new one was begun; what it knew is lost", "journal_id", j.ID().String(), "aside", found.Aside, "err", found.Damage)
	case found.CutBytes > 0:
		b.log.Info("an append that a crash had interrupted was cut from the journal", "bytes", found.CutBytes)
	}
	return nil
}

// now is the journal to use for one step. It may die or be closed meanwhile, which its
// methods answer with ErrJournal.
func (b *book) now() *journal.Journal { return b.j.Load() }

func (b *book) close() error { return b.now().Close() }

// mend opens the journal again when it has died, or was opened with another retention.
func (b *book) mend() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	dead := b.now().Err()
	if dead == nil && b.retention == b.opts().Retention {
		return nil
	}
	_ = b.now().Close()
	if err := b.openLocked(); err != nil {
		return fmt.Errorf("open the journal again: %w", err)
	}
	if dead != nil {
		b.log.Warn("the journal can be written again", "had_died_of", dead)
	}
	return nil
}

// rotate begins a new journal and puts the old one aside.
func (b *book) rotate() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	olds, err := b.olds()
	if err != nil {
		return err
	}
	next := 1
	if n := len(olds); n > 0 {
		next = olds[n-1] + 1
	}
	was := b.now().ID()
	_ = b.now().Close()
	from := filepath.Join(b.dir, journalDir)
	if err := os.Rename(from, b.old(next)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, b.openLocked())
	}
	if err := identity.SyncDir(b.dir); err != nil {
		return err
	}
	if err := b.openLocked(); err != nil {
		return err
	}
	for len(olds) >= keptJournals {
		if err := os.RemoveAll(b.old(olds[0])); err != nil {
			b.log.Warn("old journal not removed", "err", err)
		}
		olds = olds[1:]
	}
	b.log.Warn("a new journal was begun", "journal_id", b.now().ID().String(), "old_journal_id", was.String(), "aside", b.old(next))
	return nil
}

func (b *book) old(n int) string { return filepath.Join(b.dir, oldJournals+strconv.Itoa(n)) }

// olds lists the numbers of the journals put aside, in order.
func (b *book) olds() ([]int, error) {
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return nil, err
	}
	var all []int
	for _, e := range entries {
		if number, ok := strings.CutPrefix(e.Name(), oldJournals); ok {
			if n, err := strconv.Atoi(number); err == nil {
				all = append(all, n)
			}
		}
	}
	slices.Sort(all)
	return all, nil
}

// expect tells what Intent will have to write for the attempt; forget takes it back.
func (b *book) expect(in journal.Intent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.intents[execute.Attempt{InvocationID: in.InvocationID, Number: in.Attempt}] = in
}

func (b *book) forget(k journal.Key) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.intents, execute.Attempt{InvocationID: k.InvocationID, Number: k.Attempt})
}

// Intent journals the intent that was expected.
func (b *book) Intent(s execute.Spec) error {
	b.mu.RLock()
	in, ok := b.intents[s.Attempt]
	b.mu.RUnlock()
	if !ok {
		return fmt.Errorf("%w: nobody has asked for %s", journal.ErrInvalid, s.Attempt)
	}
	return b.now().Intent(in)
}

func keyOf(a execute.Attempt) journal.Key {
	return journal.Key{InvocationID: a.InvocationID, Attempt: a.Number}
}

// Finish journals a result, once.
func (b *book) Finish(a execute.Attempt, r execute.Result) error {
	return once(b.now().Result(keyOf(a), journalResult(r, b.time())))
}

// once takes what is journalled already for done.
func once(err error) error {
	var known *journal.KnownError
	switch {
	case errors.As(err, &known):
		return nil
	case errors.Is(err, journal.ErrUnknown):
		return fmt.Errorf("%w: %w", errOtherJournal, err)
	case errors.Is(err, journal.ErrKept):
		return fmt.Errorf("%w: %w", execute.ErrKept, err)
	}
	return err
}

// StepIntent journals that a step is about to be started, once.
func (b *book) StepIntent(a execute.Attempt, s execute.StepRecord) error {
	err := once(b.now().StepIntent(keyOf(a), journal.Step{Number: s.Number, Of: s.Of, Name: s.Name, At: b.time()}))
	if err == nil && s.Number > 1 && b.stepped != nil {
		b.stepped(keyOf(a))
	}
	return err
}

// waits passes on that an attempt has begun to wait for the reboot that it announced.
func (b *book) waits(a execute.Attempt) {
	if b.awaited != nil {
		b.awaited(keyOf(a))
	}
}

// StepFinish journals how a step has ended, once.
func (b *book) StepFinish(a execute.Attempt, s execute.StepRecord) error {
	return once(b.now().StepResult(keyOf(a), s.Number, journalResult(s.Result, b.time())))
}

// Steps gives the steps of an attempt that have an intent.
func (b *book) Steps(a execute.Attempt) []execute.StepRecord {
	r, _ := b.now().Lookup(keyOf(a))
	var all []execute.StepRecord
	for _, s := range r.Steps {
		all = append(all, execute.StepRecord{Number: s.Number, Of: s.Of, Name: s.Name, Result: stepResult(s.Result)})
	}
	return all
}

// stepResult is what the journal knows of a step's result: not its output.
func stepResult(r journal.Result) execute.Result {
	at := func(nanos int64) time.Time {
		if nanos == 0 {
			return time.Time{}
		}
		return time.Unix(0, nanos)
	}
	return execute.Result{
		State: execute.State(r.State), Reason: r.Reason, Detail: r.Detail, Started: r.Started, ExitCode: int(r.ExitCode), Signal: int(r.Signal),
		StartedAt: at(r.StartedAt), EndedAt: at(r.EndedAt), Duration: r.Duration, StdoutBytes: r.StdoutBytes, StderrBytes: r.StderrBytes,
	}
}

func journalResult(r execute.Result, at int64) journal.Result {
	nanos := func(t time.Time) int64 {
		if t.IsZero() {
			return 0
		}
		return t.UnixNano()
	}
	chunks := func(in []execute.Chunk) []journal.Chunk {
		out := make([]journal.Chunk, len(in))
		for i, c := range in {
			out[i] = journal.Chunk{Stream: c.Stream, Data: c.Data}
		}
		return out
	}
	return journal.Result{
		State: journal.State(r.State), Reason: r.Reason, Detail: r.Detail, Started: r.Started,
		ExitCode: int32(r.ExitCode), Signal: int32(r.Signal),
		StartedAt: nanos(r.StartedAt), EndedAt: nanos(r.EndedAt), Duration: r.Duration,
		StdoutBytes: r.StdoutBytes, StderrBytes: r.StderrBytes, Head: chunks(r.Head), Tail: chunks(r.Tail), At: at,
	}
}
