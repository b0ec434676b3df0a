package journal

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/agentplane/agentplane/proto/frame"
)

// Options bound a journal. Zero values give the defaults.
type Options struct {
	// Retention is how long records are kept after the last thing that happened to
	// them; 30 days. They are kept until not-after + 24 h in any case.
	Retention time.Duration
	// OutputRetention is how long the output of a confirmed result is kept; 24 h.
	OutputRetention time.Duration
	// MaxRecords bounds the attempts known; 64 Ki. Refusals (Never) may exceed it by
	// a quarter.
	MaxRecords int
	// MaxBytes bounds the file likewise; 64 MiB. Results are always taken.
	MaxBytes int64
	// ReserveBytes is the free disk space below which no Intent is taken, so that
	// results and refusals still find room; 16 MiB. Negative is none.
	ReserveBytes int64

	// Synced is told of each fsync how much of which file, named within the directory, outlives a
	// loss of power then; for tests. It is called by who writes, and must not call back.
	Synced func(name string, size int64)
}

func (o Options) withDefaults() Options {
	o.Retention = cmp.Or(o.Retention, 30*24*time.Hour)
	o.OutputRetention = cmp.Or(o.OutputRetention, 24*time.Hour)
	o.MaxRecords = cmp.Or(o.MaxRecords, 64<<10)
	o.MaxBytes = cmp.Or(o.MaxBytes, 64<<20)
	o.ReserveBytes = cmp.Or(o.ReserveBytes, 16<<20)
	return o
}

// Opening is what Open found.
type Opening struct {
	New      bool   // a journal with a new id was begun
	Damage   error  // why, when there was one before; nil for an empty directory
	Aside    string // where the damaged files are, inside the directory
	CutBytes int64  // of an append that a crash had interrupted
}

// Journal is the agent's durable record; see the package comment. All methods may be
// called at once.
type Journal struct {
	fs      fsys
	lock    io.Closer
	opts    Options
	opening Opening

	// appendMu puts appends and rewrites in a row. It is held during disk writes, and
	// taken before mu.
	appendMu sync.Mutex
	number   uint64 // of the current file
	base     int64  // bytes of the current file when it was written anew

	// mu guards what follows. It is never held during a write or an fsync; a reader
	// of output holds it so that the file stays open.
	mu   sync.RWMutex
	s    *state
	f    file
	size int64
	dead error // the first failure, or that the journal was closed
}

// Open locks dir (made with mode 0700 if need be), finds its journal or begins one,
// and writes it anew. The caller closes it. Errors: ErrLocked, *FormatError, and what
// the disk gave; a damaged journal is no error, see [Journal.Opening].
func Open(dir string, opts Options) (*Journal, error) {
	j, err := open(osDir(dir), opts)
	if err != nil {
		return nil, fmt.Errorf("open journal in %q: %w", dir, err)
	}
	return j, nil
}

func open(fs fsys, opts Options) (*Journal, error) {
	lock, err := fs.Lock()
	if err != nil {
		return nil, err
	}
	j := &Journal{fs: fs, lock: lock, opts: opts.withDefaults()}
	if err := j.recover(); err != nil {
		if j.f != nil {
			_ = j.f.Close()
		}
		_ = lock.Close()
		return nil, err
	}
	return j, nil
}

// Opening says what Open found.
func (j *Journal) Opening() Opening { return j.opening }

// ID names this journal.
func (j *Journal) ID() ID {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.s.id
}

// Seq is the number of the last durable record.
func (j *Journal) Seq() uint64 {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.s.seq
}

// Prev is the last session epoch that was journalled; zero when there was none.
func (j *Journal) Prev() Epoch {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.s.epoch
}

// Floor is the cluster time before which commands may have been forgotten. It is not
// known until SetFloor was called on a new journal.
func (j *Journal) Floor() (floor int64, known bool) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.s.floor, j.s.hasFloor
}

// Err is the failure that killed the journal, or nil.
func (j *Journal) Err() error {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.dead
}

// Close releases the directory. Everything acknowledged is on disk already.
func (j *Journal) Close() error {
	j.appendMu.Lock()
	defer j.appendMu.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.f == nil {
		return nil
	}
	if j.dead == nil {
		j.dead = fmt.Errorf("%w: it was closed", ErrJournal)
	}
	err := errors.Join(j.f.Close(), j.lock.Close())
	j.f = nil
	return err
}

// SetFloor gives a new journal its floor. Again with the same value is harmless;
// another value is ErrFloorSet.
func (j *Journal) SetFloor(floor int64) error {
	if known, ok := j.Floor(); ok && known == floor {
		return j.Err()
	}
	return j.append("set floor", mutation{kind: kindFloor, floor: floor})
}

// SetEpoch journals the session epoch that the agent is about to be Ready for. An
// older one is ErrOlderEpoch; the same one again is harmless.
func (j *Journal) SetEpoch(e Epoch) error {
	if len(e.IncarnationID) > MaxIDBytes {
		return fmt.Errorf("%w: incarnation id has %d bytes, at most %d are allowed", ErrInvalid, len(e.IncarnationID), MaxIDBytes)
	}
	if j.Prev() == e {
		return j.Err()
	}
	return j.append("set session epoch", mutation{kind: kindEpoch, epoch: e})
}

// Intent journals that the attempt is about to be started. Only after a nil error may
// it be. An attempt that is known in any way is refused with a *KnownError.
func (j *Journal) Intent(in Intent) error {
	if err := in.validate(); err != nil {
		return err
	}
	if free, err := j.fs.FreeBytes(); err == nil && j.opts.ReserveBytes > 0 && free < uint64(j.opts.ReserveBytes) {
		if err := j.known(in.Key); err != nil {
			return err
		}
		return fmt.Errorf("%w: the disk has %d bytes free, %d are kept in reserve", ErrFull, free, j.opts.ReserveBytes)
	}
	return j.append("intent", mutation{kind: kindIntent, intent: in})
}

// Result journals how a started attempt ended. Text and output above their bounds are
// cut. Errors: ErrUnknown, *KnownError when it has ended before.
func (j *Journal) Result(k Key, r Result) error {
	if !r.State.known() {
		return fmt.Errorf("%w: %s ends with state %q, which is none", ErrInvalid, k, r.State)
	}
	r = r.bounded()
	output := encodeOutput(r.Head, r.Tail)
	r.Head, r.Tail = nil, nil
	return j.append("result", mutation{kind: kindResult, key: k, result: r, output: output})
}

// StepIntent journals that a step of a started attempt is about to be started. The step
// before it has its result. When it is journalled already it is a *KnownError, and so it is
// when the attempt has ended; other errors are ErrUnknown and ErrInvalid.
func (j *Journal) StepIntent(k Key, s Step) error {
	if len(s.Name) > MaxNameBytes {
		return fmt.Errorf("%w: the name of step %d of %s has %d bytes, at most %d are allowed", ErrInvalid, s.Number, k, len(s.Name), MaxNameBytes)
	}
	return j.append("intent of a step", mutation{kind: kindStepIntent, key: k, step: Step{Number: s.Number, Of: s.Of, Name: s.Name, At: s.At}})
}

// StepResult journals how the step that began last has ended. Its text is cut to its bounds,
// and its output is not kept. Errors: as of StepIntent.
func (j *Journal) StepResult(k Key, number uint32, r Result) error {
	if !r.State.known() {
		return fmt.Errorf("%w: step %d of %s ends with state %q, which is none", ErrInvalid, number, k, r.State)
	}
	r.Head, r.Tail = nil, nil
	return j.append("result of a step", mutation{kind: kindStepResult, key: k, step: Step{Number: number, Result: r.bounded()}})
}

// Never journals that the attempt was never started and never will be. An attempt that
// is known in any way is refused with a *KnownError: it may have been started.
func (j *Journal) Never(in Intent, s State, reason, detail string) error {
	if err := in.validate(); err != nil {
		return err
	}
	if !s.known() {
		return fmt.Errorf("%w: %s ends with state %q, which is none", ErrInvalid, in.Key, s)
	}
	r := Result{State: s, Reason: reason, Detail: detail, ExitCode: -1, At: in.At}.bounded()
	return j.append("never", mutation{kind: kindNever, intent: in, result: r})
}

// maxConfirms is how many confirmations go into one append.
const maxConfirms = 1024

// Confirm journals that the cluster has applied the results of these attempts. Those
// unknown (forgotten) or confirmed before are passed over.
func (j *Journal) Confirm(keys ...Key) error {
	for len(keys) > 0 {
		n := min(len(keys), maxConfirms)
		var muts []mutation
		for _, k := range keys[:n] {
			if r, ok := j.record(k); ok && !r.Confirmed {
				muts = append(muts, mutation{kind: kindConfirm, key: k})
			}
		}
		keys = keys[n:]
		if len(muts) == 0 {
			continue
		}
		if err := j.append("confirm", muts...); err != nil {
			return err
		}
	}
	return nil
}

func (j *Journal) record(k Key) (Record, bool) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if e, ok := j.s.records[k]; ok {
		return e.Record, true
	}
	return Record{}, false
}

func (j *Journal) known(k Key) error {
	if r, ok := j.Lookup(k); ok {
		return &KnownError{Record: r}
	}
	return nil
}

// append makes muts durable in one frame, or changes nothing, or kills the journal.
func (j *Journal) append(what string, muts ...mutation) error {
	j.appendMu.Lock()
	defer j.appendMu.Unlock()
	payload, at, err := j.admit(muts)
	if err != nil {
		var known *KnownError
		if errors.As(err, &known) {
			if r, ok := j.Lookup(known.Record.Key); ok {
				known.Record = r // with its output
			}
		}
		return fmt.Errorf("journal %s: %w", what, err)
	}
	b := frame.Append(nil, frameAppend, payload)
	if _, err := j.f.Write(b); err != nil {
		return fmt.Errorf("journal %s: %w", what, j.die("write", err))
	}
	if syncsAppends {
		if err := j.f.Sync(); err != nil {
			return fmt.Errorf("journal %s: %w", what, j.die("fsync", err))
		}
		j.synced(fileName(j.number), at+int64(len(b)))
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range muts {
		j.s.apply(&muts[i], at+frame.HeaderBytes)
	}
	j.size = at + int64(len(b))
	return nil
}

func (j *Journal) synced(name string, size int64) {
	if j.opts.Synced != nil {
		j.opts.Synced(name, size)
	}
}

// admit decides whether muts may be appended, and where. Appends come one by one, so
// what it decides stays true until they are applied.
func (j *Journal) admit(muts []mutation) (payload []byte, at int64, err error) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if j.dead != nil {
		return nil, 0, j.dead
	}
	for i := range muts {
		if err := j.s.check(&muts[i]); err != nil {
			return nil, 0, err
		}
		if err := j.bounds(&muts[i]); err != nil {
			return nil, 0, err
		}
	}
	payload = encodeAppend(j.s.id, j.s.seq+1, muts)
	if len(payload) > maxPayloadBytes {
		return nil, 0, fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrInvalid, len(payload), maxPayloadBytes)
	}
	return payload, j.size, nil
}

// bounds holds back what would start more work, or more refusals, than there is room for.
func (j *Journal) bounds(m *mutation) error {
	records, size := j.opts.MaxRecords, j.opts.MaxBytes
	switch m.kind {
	case kindIntent:
		switch {
		case !j.s.hasFloor:
			return fmt.Errorf("%w: call SetFloor before the first intent", ErrNoFloor)
		case m.intent.Submitted < j.s.floor:
			return fmt.Errorf("%w: %s was submitted at %d, the floor is %d", ErrForgotten, m.intent.Key, m.intent.Submitted, j.s.floor)
		}
	case kindNever:
		records, size = records+records/4, size+size/4
	default:
		return nil
	}
	if len(j.s.records) >= records || j.size >= size {
		return fmt.Errorf("%w: it has %d records and %d bytes, at most %d and %d are allowed",
			ErrFull, len(j.s.records), j.size, records, size)
	}
	return nil
}

// die records the first failure for good. The caller holds appendMu.
func (j *Journal) die(what string, err error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.dead = fmt.Errorf("%w: %s: %w; restart agentd once the disk is well", ErrJournal, what, err)
	return j.dead
}
