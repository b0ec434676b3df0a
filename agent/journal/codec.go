package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// format is the newest file format that this release writes and reads. Older ones
// stay readable for ever (testdata).
const format = 3

// stepsFormat is the first format in which attempts have steps, guardsFormat in which they
// have guards.
const (
	stepsFormat  = 2
	guardsFormat = 3
)

// Frame types of a journal file.
const (
	frameHeader  = 1
	frameAttempt = 2
	frameAppend  = 3
)

// maxPayloadBytes bounds every frame of a journal.
const maxPayloadBytes = 256 << 10

// Kinds of records inside an append.
const (
	kindEpoch      = 1
	kindFloor      = 2
	kindIntent     = 3
	kindResult     = 4
	kindNever      = 5
	kindConfirm    = 6
	kindStepIntent = 7
	kindStepResult = 8
	kindArm        = 9
	kindKeep       = 10
)

// errDecode is wrapped by every failure to decode a payload whose checksum is right.
var errDecode = errors.New("payload does not decode")

type encoder struct{ b []byte }

func (e *encoder) byte(v byte)     { e.b = append(e.b, v) }
func (e *encoder) uint(v uint64)   { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) int(v int64)     { e.b = binary.AppendVarint(e.b, v) }
func (e *encoder) raw(v []byte)    { e.b = append(e.b, v...) }
func (e *encoder) string(v string) { e.uint(uint64(len(v))); e.b = append(e.b, v...) }
func (e *encoder) bytes(v []byte)  { e.uint(uint64(len(v))); e.b = append(e.b, v...) }

func (e *encoder) bool(v bool) {
	if v {
		e.byte(1)
	} else {
		e.byte(0)
	}
}

// A decoder keeps its first error; after one, every read gives a zero value.
type decoder struct {
	b   []byte
	off int
	err error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s at byte %d", errDecode, what, d.off)
	}
}

func (d *decoder) raw(n int) []byte {
	if d.err != nil || n < 0 || n > len(d.b)-d.off {
		d.fail("too short")
		return nil
	}
	d.off += n
	return d.b[d.off-n : d.off]
}

func (d *decoder) byte() byte {
	if b := d.raw(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) bool() bool {
	switch d.byte() {
	case 0:
		return false
	case 1:
		return true
	default:
		d.fail("bad flag")
		return false
	}
}

func (d *decoder) uint() uint64 {
	if d.err != nil {
		return 0
	}
	v, n := binary.Uvarint(d.b[d.off:])
	if n <= 0 {
		d.fail("bad number")
		return 0
	}
	d.off += n
	return v
}

func (d *decoder) int() int64 {
	if d.err != nil {
		return 0
	}
	v, n := binary.Varint(d.b[d.off:])
	if n <= 0 {
		d.fail("bad number")
		return 0
	}
	d.off += n
	return v
}

func (d *decoder) uint32() uint32 {
	v := d.uint()
	if v > 1<<32-1 {
		d.fail("number above 32 bits")
	}
	return uint32(v)
}

func (d *decoder) int32() int32 {
	v := d.int()
	if v != int64(int32(v)) {
		d.fail("number above 32 bits")
	}
	return int32(v)
}

func (d *decoder) string(max int) string {
	n := d.uint()
	if n > uint64(max) {
		d.fail("text is too long")
		return ""
	}
	return string(d.raw(int(n)))
}

// end wants that nothing is left.
func (d *decoder) end() error {
	if d.err == nil && d.off != len(d.b) {
		d.fail("bytes left over")
	}
	return d.err
}

func (e *encoder) key(k Key) {
	e.string(k.InvocationID)
	e.uint(uint64(k.Attempt))
}

func (d *decoder) key() Key {
	return Key{InvocationID: d.string(MaxIDBytes), Attempt: d.uint32()}
}

func (e *encoder) epoch(p Epoch) {
	e.uint(p.Incarnation)
	e.string(p.IncarnationID)
	e.uint(p.Session)
}

func (d *decoder) epoch() Epoch {
	return Epoch{Incarnation: d.uint(), IncarnationID: d.string(MaxIDBytes), Session: d.uint()}
}

func (e *encoder) intent(in Intent) {
	e.key(in.Key)
	e.string(in.CommandID)
	e.uint(in.Fence)
	e.raw(in.Digest[:])
	e.int(in.Submitted)
	e.int(in.NotAfter)
	e.int(in.At)
}

func (d *decoder) intent() Intent {
	in := Intent{Key: d.key(), CommandID: d.string(MaxIDBytes), Fence: d.uint()}
	copy(in.Digest[:], d.raw(len(in.Digest)))
	in.Submitted, in.NotAfter, in.At = d.int(), d.int(), d.int()
	return in
}

// result encodes all but the output.
func (e *encoder) result(r Result) {
	e.string(string(r.State))
	e.string(r.Reason)
	e.string(r.Detail)
	e.bool(r.Started)
	e.int(int64(r.ExitCode))
	e.int(int64(r.Signal))
	e.int(r.StartedAt)
	e.int(r.EndedAt)
	e.int(int64(r.Duration))
	e.uint(r.StdoutBytes)
	e.uint(r.StderrBytes)
	e.bool(r.OutputGone)
	e.int(r.At)
}

func (d *decoder) result() Result {
	r := Result{
		State:       State(d.string(MaxTextBytes)),
		Reason:      d.string(MaxTextBytes),
		Detail:      d.string(MaxTextBytes),
		Started:     d.bool(),
		ExitCode:    d.int32(),
		Signal:      d.int32(),
		StartedAt:   d.int(),
		EndedAt:     d.int(),
		Duration:    time.Duration(d.int()),
		StdoutBytes: d.uint(),
		StderrBytes: d.uint(),
		OutputGone:  d.bool(),
		At:          d.int(),
	}
	if d.err == nil && !r.State.known() {
		d.fail("unknown state")
	}
	return r
}

// stepIntent encodes all but the result.
func (e *encoder) stepIntent(s Step) {
	e.uint(uint64(s.Number))
	e.uint(uint64(s.Of))
	e.string(s.Name)
	e.int(s.At)
}

func (d *decoder) stepIntent() Step {
	return Step{Number: d.uint32(), Of: d.uint32(), Name: d.string(MaxNameBytes), At: d.int()}
}

func (e *encoder) steps(steps []Step) {
	e.uint(uint64(len(steps)))
	for _, s := range steps {
		e.stepIntent(s)
		e.bool(s.Ended())
		if s.Ended() {
			e.result(s.Result)
		}
	}
}

func (d *decoder) steps() (steps []Step) {
	n := d.uint()
	if n > MaxSteps {
		d.fail("too many steps")
	}
	for i := uint64(0); i < n && d.err == nil; i++ {
		s := d.stepIntent()
		if d.bool() {
			s.Result = d.result()
		}
		steps = append(steps, s)
	}
	return steps
}

// encodeOutput encodes head and tail; no output at all is no bytes at all.
func encodeOutput(head, tail []Chunk) []byte {
	if len(head)+len(tail) == 0 {
		return nil
	}
	var e encoder
	for _, chunks := range [][]Chunk{head, tail} {
		e.uint(uint64(len(chunks)))
		for _, c := range chunks {
			e.byte(c.Stream)
			e.bytes(c.Data)
		}
	}
	return e.b
}

func decodeOutput(b []byte) (head, tail []Chunk, err error) {
	if len(b) == 0 {
		return nil, nil, nil
	}
	d := &decoder{b: b}
	for _, chunks := range []*[]Chunk{&head, &tail} {
		n := d.uint()
		if n > MaxOutputBytes/chunkCostBytes {
			d.fail("too many chunks")
		}
		for range n {
			if d.err != nil {
				break
			}
			c := Chunk{Stream: d.byte()}
			c.Data = []byte(d.string(MaxOutputBytes))
			*chunks = append(*chunks, c)
		}
	}
	if err := d.end(); err != nil {
		return nil, nil, err
	}
	return head, tail, nil
}

// A header opens each journal file.
type header struct {
	Format   uint64
	ID       ID
	Seq      uint64 // of the last record that is folded into the attempts
	HasFloor bool
	Floor    int64
	Epoch    Epoch
	Count    uint64 // of attempts that follow
}

func (h header) encode() []byte {
	var e encoder
	e.uint(h.Format) // first, and the same in every format
	e.raw(h.ID[:])
	e.uint(h.Seq)
	e.bool(h.HasFloor)
	e.int(h.Floor)
	e.epoch(h.Epoch)
	e.uint(h.Count)
	return e.b
}

// decodeHeader leaves all but Format empty when the format is newer than this release.
func decodeHeader(b []byte) (header, error) {
	d := &decoder{b: b}
	h := header{Format: d.uint()}
	if d.err != nil || h.Format > format {
		return h, d.err
	}
	if h.Format == 0 {
		d.fail("format is 0")
	}
	copy(h.ID[:], d.raw(len(h.ID)))
	h.Seq = d.uint()
	h.HasFloor, h.Floor = d.bool(), d.int()
	h.Epoch, h.Count = d.epoch(), d.uint()
	return h, d.end()
}

// A mutation is one record of an append. Which fields count depends on kind.
type mutation struct {
	kind   byte
	epoch  Epoch
	floor  int64
	intent Intent // kindIntent, kindNever
	key    Key    // kindResult, kindConfirm, kindStepIntent, kindStepResult
	step   Step   // kindStepIntent; of kindStepResult the number and the result
	guard  Guard  // kindArm; of kindKeep who confirmed it, and when
	result Result // kindResult, kindNever; without output
	output []byte // encoded
	outAt  int    // where output begins in the frame's payload
}

// encodeAppend encodes mutations as the payload of one frame and sets their outAt.
func encodeAppend(id ID, first uint64, muts []mutation) []byte {
	var e encoder
	e.raw(id[:])
	e.uint(first)
	e.uint(uint64(len(muts)))
	for i := range muts {
		m := &muts[i]
		e.byte(m.kind)
		switch m.kind {
		case kindEpoch:
			e.epoch(m.epoch)
		case kindFloor:
			e.int(m.floor)
		case kindIntent:
			e.intent(m.intent)
		case kindResult:
			e.key(m.key)
			e.result(m.result)
			e.uint(uint64(len(m.output)))
			m.outAt = len(e.b)
			e.raw(m.output)
		case kindNever:
			e.intent(m.intent)
			e.result(m.result)
		case kindConfirm:
			e.key(m.key)
		case kindStepIntent:
			e.key(m.key)
			e.stepIntent(m.step)
		case kindStepResult:
			e.key(m.key)
			e.uint(uint64(m.step.Number))
			e.result(m.step.Result)
		case kindArm:
			e.key(m.key)
			e.armed(m.guard)
		case kindKeep:
			e.key(m.key)
			e.kept(m.guard)
		}
	}
	return e.b
}

func decodeAppend(b []byte) (id ID, first uint64, muts []mutation, err error) {
	d := &decoder{b: b}
	copy(id[:], d.raw(len(id)))
	first = d.uint()
	n := d.uint()
	for i := uint64(0); i < n && d.err == nil; i++ {
		m := mutation{kind: d.byte()}
		switch m.kind {
		case kindEpoch:
			m.epoch = d.epoch()
		case kindFloor:
			m.floor = d.int()
		case kindIntent:
			m.intent = d.intent()
		case kindResult:
			m.key, m.result = d.key(), d.result()
			size := d.uint()
			if size > maxPayloadBytes {
				d.fail("output is too long")
				break
			}
			m.outAt = d.off
			m.output = d.raw(int(size))
		case kindNever:
			m.intent, m.result = d.intent(), d.result()
		case kindConfirm:
			m.key = d.key()
		case kindStepIntent:
			m.key = d.key()
			m.step = d.stepIntent()
		case kindStepResult:
			m.key = d.key()
			m.step = Step{Number: d.uint32(), Result: d.result()}
		case kindArm:
			m.key, m.guard = d.key(), d.armed()
		case kindKeep:
			m.key, m.guard = d.key(), d.kept()
		default:
			d.fail("unknown kind")
		}
		muts = append(muts, m)
	}
	return id, first, muts, d.end()
}

// encodeAttempt encodes one attempt of a rewritten file. The output comes last.
func encodeAttempt(id ID, r Record, output []byte) (payload []byte, outAt int) {
	var e encoder
	e.raw(id[:])
	e.uint(r.Seq)
	e.intent(r.Intent)
	e.bool(r.Never)
	e.bool(r.Confirmed)
	e.bool(r.Ended())
	if r.Ended() {
		e.result(r.Result)
	}
	e.steps(r.Steps)
	e.guard(r.Guard)
	outAt = len(e.b)
	e.raw(output)
	return e.b, outAt
}

// decodeAttempt decodes one of a file of that format.
func decodeAttempt(format uint64, b []byte) (id ID, r Record, outAt int, err error) {
	d := &decoder{b: b}
	copy(id[:], d.raw(len(id)))
	r.Seq = d.uint()
	r.Intent = d.intent()
	r.Never, r.Confirmed = d.bool(), d.bool()
	if d.bool() {
		r.Result = d.result()
	}
	if format >= stepsFormat {
		r.Steps = d.steps()
	}
	if format >= guardsFormat {
		r.Guard = d.guard()
	}
	return id, r, d.off, d.err
}
