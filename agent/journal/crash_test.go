package journal

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/agentplane/agentplane/proto/frame"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write testdata anew")

// copy is the disk as a new machine would find it, power cut between operations.
func (d *disk) copy() *disk {
	n := newDisk()
	for name, f := range d.names {
		i := &inode{data: slices.Clone(f.data), synced: len(f.data)}
		n.names[name], n.durable[name] = i, i
	}
	return n
}

// story writes a few records and gives where each append ended.
func story(t testing.TB, d *disk) (j *Journal, ends []int, seqs []uint64) {
	j = fresh(t, d, Options{})
	_, f := d.journalFile()
	mark := func() { ends, seqs = append(ends, len(f.data)), append(seqs, j.Seq()) }
	mark()
	must(t, j.SetEpoch(Epoch{Incarnation: 1, IncarnationID: "a", Session: 3}))
	mark()
	for n := range 2 {
		must(t, j.Intent(intent(n)))
		mark()
		must(t, j.Result(key(n), result(n)))
		mark()
	}
	must(t, j.Never(intent(5), Expired, "expired", ""))
	mark()
	must(t, j.Confirm(key(0), key(5)))
	mark()
	must(t, j.Intent(intent(6)))
	mark()
	must(t, j.StepIntent(key(6), step(1)))
	mark()
	must(t, j.StepResult(key(6), 1, stepResult(1)))
	mark()
	must(t, j.StepIntent(key(6), step(2)))
	mark()
	return j, ends, seqs
}

func TestCutAtEveryByteLosesNothingAcknowledged(t *testing.T) {
	d := newDisk()
	j, ends, seqs := story(t, d)
	name, f := d.journalFile()
	for size := ends[0]; size <= len(f.data); size++ {
		cut := d.copy()
		i := &inode{data: slices.Clone(f.data[:size]), synced: size}
		cut.names[name], cut.durable[name] = i, i
		got := mustOpen(t, cut, Options{})
		last := 0 // the last append that is whole
		for last+1 < len(ends) && ends[last+1] <= size {
			last++
		}
		if o := got.Opening(); o.New || o.CutBytes != int64(size-ends[last]) {
			t.Fatalf("cut at %d: opening %+v, want %d bytes cut", size, o, size-ends[last])
		}
		if got.ID() != j.ID() || got.Seq() != seqs[last] {
			t.Fatalf("cut at %d: seq %d, want %d", size, got.Seq(), seqs[last])
		}
		if err := got.Never(intent(7), Canceled, "", ""); err != nil {
			t.Fatalf("cut at %d: append: %v", size, err)
		}
		got.Close()
	}
}

func TestEveryFlippedByteIsDamageOrTheLastAppend(t *testing.T) {
	d := newDisk()
	j, ends, seqs := story(t, d)
	name, f := d.journalFile()
	lastStart := ends[len(ends)-2]
	for at := range f.data {
		for _, bit := range []byte{0x01, 0x80} {
			bad := d.copy()
			bad.names[name].data[at] ^= bit
			got, err := open(bad, Options{})
			var format *FormatError
			if errors.As(err, &format) {
				t.Fatalf("byte %d: a flipped bit is called a newer format", at)
			}
			must(t, err)
			switch o := got.Opening(); {
			case at < lastStart && (!o.New || o.Damage == nil || got.ID() == j.ID()):
				t.Fatalf("byte %d bit %#x: opening %+v, seq %d; want a new journal", at, bit, o, got.Seq())
			case at >= lastStart && !o.New && got.Seq() != seqs[len(seqs)-2]:
				t.Fatalf("byte %d bit %#x: seq %d, want %d", at, bit, got.Seq(), seqs[len(seqs)-2])
			case o.New:
				if _, known := got.Floor(); known {
					t.Fatal("a new journal has a floor")
				}
				if bad.names[o.Aside+"/"+name] == nil {
					t.Fatalf("byte %d: the damaged file is not in %q: %v", at, o.Aside, bad.names)
				}
			}
			got.Close()
		}
	}
}

func TestMissingAndForeignFramesAreDamage(t *testing.T) {
	d := newDisk()
	_, ends, _ := story(t, d)
	name, f := d.journalFile()
	other := newDisk()
	_, otherEnds, _ := story(t, other)
	_, of := other.journalFile()
	rotten := slices.Clone(f.data) // in its last two appends
	rotten[ends[len(ends)-2]-1] ^= 1
	rotten[len(rotten)-1] ^= 1
	for what, data := range map[string][]byte{
		"two appends rot":      rotten,
		"an append is missing": slices.Concat(f.data[:ends[2]], f.data[ends[3]:]),
		"an append is doubled": slices.Concat(f.data, f.data[ends[len(ends)-2]:]),
		"a foreign append":     slices.Concat(f.data[:ends[2]], of.data[otherEnds[2]:otherEnds[3]]),
		"the file is empty":    nil,
		"the header is torn":   f.data[:20],
	} {
		bad := d.copy()
		bad.names[name].data = data
		j := mustOpen(t, bad, Options{})
		if o := j.Opening(); !o.New || o.Damage == nil {
			t.Errorf("%s: opening is %+v", what, o)
		}
	}
}

func TestOutputCannotForgeAFrame(t *testing.T) {
	// A program prints whole frames of a journal whose id it does not know, and the
	// append with them is torn: that is still a crash, not damage.
	d := newDisk()
	j := fresh(t, d, Options{})
	must(t, j.Intent(intent(1)))
	r := result(1)
	r.Head = []Chunk{{1, frame.Append(nil, frameAppend, encodeAppend(ID{1}, 3, []mutation{{kind: kindConfirm, key: key(1)}}))}}
	must(t, j.Result(key(1), r))
	cut := d.copy()
	_, f := cut.journalFile()
	f.data = f.data[:len(f.data)-1]
	got := mustOpen(t, cut, Options{})
	if got.Opening().New || got.Seq() != j.Seq()-1 {
		t.Fatalf("opening is %+v", got.Opening())
	}
}

func TestNewerFormatIsLeftAlone(t *testing.T) {
	d := newDisk()
	j := fresh(t, d, Options{})
	must(t, j.Close())
	name, f := d.journalFile()
	var e encoder
	e.uint(format + 1)
	e.raw([]byte("whatever comes"))
	f.data = frame.Append(nil, frameHeader, e.b)
	before := slices.Clone(f.data)
	_, err := open(d, Options{})
	var fe *FormatError
	if !errors.As(err, &fe) || !strings.Contains(err.Error(), "upgrade agentd") {
		t.Fatalf("error is %v", err)
	}
	if diff := cmp.Diff(before, d.names[name].data); diff != "" {
		t.Fatal("the newer file was touched")
	}
}

func TestOnlyThreeAsidesAreKept(t *testing.T) {
	d := newDisk()
	for range 6 {
		j := fresh(t, d, Options{})
		must(t, j.Close())
		_, f := d.journalFile()
		f.data[3] ^= 1
	}
	j := mustOpen(t, d, Options{})
	numbers, err := j.list(asidePrefix)
	must(t, err)
	if diff := cmp.Diff([]uint64{4, 5, 6}, numbers); diff != "" {
		t.Fatal(diff)
	}
}

// TestPowerCuts cuts the power at a random operation, several times over, and wants
// after each that what was acknowledged is there and what is there was asked for.
func TestPowerCuts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		d := newDisk()
		m := &model{acked: map[Key]Record{}, asked: map[Key]bool{}}
		for range rapid.IntRange(1, 4).Draw(t, "lives") {
			d.cutAt = rapid.IntRange(1, 60).Draw(t, "cut")
			m.live(t, d)
			d = d.afterCrash(rng)
		}
		m.live(t, d) // without a cut
	})
}

type model struct {
	id    ID
	known bool // id is known to have been durable
	seq   uint64
	floor int64
	epoch uint64
	acked map[Key]Record
	asked map[Key]bool
	next  int
}

// live opens, judges, and goes on until the power is cut or it has done enough.
func (m *model) live(t *rapid.T, d *disk) {
	j, err := open(d, Options{MaxRecords: 1000})
	if err != nil {
		if !errors.Is(err, errPower) {
			t.Fatalf("open: %v", err)
		}
		return
	}
	m.judge(t, j)
	for range rapid.IntRange(0, 25).Draw(t, "appends") {
		if m.act(t, j) != nil {
			return
		}
	}
}

func (m *model) judge(t *rapid.T, j *Journal) {
	if m.known && (j.ID() != m.id || j.Opening().New) {
		t.Fatalf("the journal changed its id: %+v", j.Opening())
	}
	m.id, m.known = j.ID(), true
	if j.Seq() < m.seq || j.Prev().Session < m.epoch {
		t.Fatalf("seq %d prev %d, acknowledged were %d and %d", j.Seq(), j.Prev().Session, m.seq, m.epoch)
	}
	floor, _ := j.Floor()
	for k, want := range m.acked {
		got, ok := j.Lookup(k)
		switch {
		case !ok && floor > want.Submitted && want.Ended():
			delete(m.acked, k) // a Forget that was not acknowledged
			continue
		case !ok:
			t.Fatalf("%s is gone; floor %d, submitted %d", k, floor, want.Submitted)
		case want.Ended() && cmp.Diff(want.Result, got.Result) != "":
			t.Fatalf("%s differs:\n%s", k, cmp.Diff(want.Result, got.Result))
		case want.Confirmed && !got.Confirmed:
			t.Fatalf("%s lost its confirmation", k)
		case len(got.Steps) < len(want.Steps):
			t.Fatalf("%s has %d steps, %d were acknowledged", k, len(got.Steps), len(want.Steps))
		}
		for n, s := range want.Steps {
			if have := got.Steps[n]; s.Ended() && cmp.Diff(s, have) != "" || have.Number != s.Number || have.Name != s.Name {
				t.Fatalf("step %d of %s is %+v, acknowledged was %+v", n+1, k, have, s)
			}
		}
	}
	for r := range j.Records() {
		if !m.asked[r.Key] {
			t.Fatalf("%s was never asked for", r.Key)
		}
		m.acked[r.Key] = r
	}
	m.seq, m.epoch, m.floor = j.Seq(), j.Prev().Session, floor
}

// act does one thing and remembers it when it was acknowledged.
func (m *model) act(t *rapid.T, j *Journal) error {
	if _, ok := j.Floor(); !ok {
		return j.SetFloor(100 * day)
	}
	var err error
	pick := func(want func(Record) bool) (Record, bool) {
		for r := range j.Records() {
			if want(r) {
				return r, true
			}
		}
		return Record{}, false
	}
	switch rapid.IntRange(0, 9).Draw(t, "act") {
	case 8, 9:
		r, ok := pick(func(r Record) bool {
			n := len(r.Steps)
			return !r.Ended() && n > 0 && r.Steps[n-1].Ended() && r.Steps[n-1].Number <= r.Steps[n-1].Of && !r.Guard.Kept
		})
		if !ok {
			break
		}
		g := guard(false)
		if !r.Guard.Armed {
			err = j.Arm(r.Key, g)
		} else {
			g = r.Guard
			g.Kept, g.By, g.KeptAt = true, "ann", 9
			err = j.Keep(r.Key, "ann", false, 9)
		}
		if err == nil {
			r.Guard = g
			m.acked[r.Key] = r
		}
	case 6, 7:
		if r, ok := pick(func(r Record) bool { return !r.Ended() && len(r.Steps) < MaxSteps }); ok {
			n := uint32(len(r.Steps))
			if n > 0 && !r.Steps[n-1].Ended() {
				if err = j.StepResult(r.Key, n, stepResult(n)); err == nil {
					r.Steps = slices.Clone(r.Steps)
					r.Steps[n-1].Result = stepResult(n)
				}
			} else if r.Guard.Kept && n >= step(1).Of {
				break // no undo follows
			} else if err = j.StepIntent(r.Key, step(n+1)); err == nil {
				r.Steps = append(slices.Clip(r.Steps), step(n+1))
			}
			if err == nil {
				m.acked[r.Key] = r
			}
		}
	case 0, 1:
		m.next++
		m.asked[key(m.next)] = true
		if err = j.Intent(intent(m.next)); err == nil {
			m.acked[key(m.next)] = Record{Intent: intent(m.next)}
		}
	case 2:
		if r, ok := pick(func(r Record) bool { return !r.Ended() }); ok {
			if err = j.Result(r.Key, result(m.next)); err == nil {
				r.Result = result(m.next)
				m.acked[r.Key] = r
			}
		}
	case 3:
		if r, ok := pick(func(r Record) bool { return r.Ended() && !r.Confirmed }); ok {
			if err = j.Confirm(r.Key); err == nil {
				r.Confirmed = true
				m.acked[r.Key] = r
			}
		}
	case 4:
		if err = j.SetEpoch(Epoch{Session: m.epoch + 1}); err == nil {
			m.epoch++
		}
	case 5:
		var gone []Key
		if gone, err = j.Forget(100*day + 31*day + int64(m.next)/2); err == nil {
			for _, k := range gone {
				delete(m.acked, k)
			}
		}
	}
	if err != nil && !errors.Is(err, errPower) {
		t.Fatalf("unexpected error: %v", err)
	}
	if err == nil {
		m.seq = j.Seq()
	}
	return err
}

func TestReadsEveryReleasedFormat(t *testing.T) {
	path := func(format int) string { return filepath.Join("testdata", fmt.Sprintf("format-%d.journal", format)) }
	if *update {
		d := newDisk()
		j, _, _ := story(t, d)
		must(t, j.Close())
		j = mustOpen(t, d, Options{}) // attempts as well as appends
		must(t, j.Intent(intent(8)))
		must(t, j.Result(key(8), result(8)))
		must(t, j.StepResult(key(6), 2, stepResult(2)))
		must(t, j.Arm(key(6), guard(true)))
		must(t, j.Keep(key(6), "ann", false, 100*day+9))
		_, f := d.journalFile()
		must(t, os.MkdirAll("testdata", 0o755))
		must(t, os.WriteFile(path(format), f.data, 0o644))
	}
	kept := guard(true)
	kept.Kept, kept.By, kept.KeptAt = true, "ann", 100*day+9
	for f, want := range map[int]struct {
		seq   uint64
		steps []Step
		guard Guard
	}{
		1: {seq: 11},
		2: {seq: 16, steps: []Step{ended(1), ended(2)}},
		3: {18, []Step{ended(1), ended(2)}, kept},
	} {
		data, err := os.ReadFile(path(f))
		must(t, err)
		d := newDisk()
		i := &inode{data: data, synced: len(data)}
		d.names[fileName(1)], d.durable[fileName(1)] = i, i
		j := mustOpen(t, d, Options{})
		if j.Opening() != (Opening{}) || j.Seq() != want.seq || j.Prev().Session != 3 {
			t.Fatalf("format %d: opening %+v seq %d prev %+v", f, j.Opening(), j.Seq(), j.Prev())
		}
		for _, n := range []int{0, 1, 8} {
			r, ok := j.Lookup(key(n))
			want := Record{Seq: r.Seq, Intent: intent(n), Result: result(n), Confirmed: n == 0}
			if diff := cmp.Diff(want, r); !ok || diff != "" {
				t.Fatalf("format %d: attempt %d differs:\n%s", f, n, diff)
			}
		}
		if r, _ := j.Lookup(key(5)); !r.Never || !r.Confirmed || r.Result.State != Expired {
			t.Fatalf("format %d: refusal is %+v", f, r)
		}
		r, _ := j.Lookup(key(6))
		if diff := cmp.Diff(want.steps, r.Steps); diff != "" {
			t.Fatalf("format %d: steps differ:\n%s", f, diff)
		}
		if r.Guard != want.guard {
			t.Fatalf("format %d: guard is %+v", f, r.Guard)
		}
	}
}

func FuzzLoad(f *testing.F) {
	d := newDisk()
	_, ends, _ := story(f, d)
	_, i := d.journalFile()
	f.Add(i.data)
	f.Add(i.data[:ends[2]+5])
	for _, name := range []string{"format-1.journal", "format-2.journal", "format-3.journal"} {
		if golden, err := os.ReadFile(filepath.Join("testdata", name)); err == nil {
			f.Add(golden)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := newDisk()
		i := &inode{data: slices.Clone(data), synced: len(data)}
		d.names[fileName(1)], d.durable[fileName(1)] = i, i
		j, err := open(d, Options{})
		if err != nil {
			var fe *FormatError
			if !errors.As(err, &fe) {
				t.Fatalf("open: %v", err)
			}
			return
		}
		before := fmt.Sprint(slices.Collect(j.Records()), j.Seq(), j.Prev())
		must(t, j.Close())
		j, err = open(d, Options{})
		must(t, err)
		defer j.Close()
		if after := fmt.Sprint(slices.Collect(j.Records()), j.Seq(), j.Prev()); after != before || j.Opening() != (Opening{}) {
			t.Fatalf("a second open differs:\n%s\n%s", before, after)
		}
	})
}

// FuzzDecode goes past the checksum, which a fuzzer cannot guess.
func FuzzDecode(f *testing.F) {
	f.Add(encodeAppend(ID{1}, 1, []mutation{
		{kind: kindFloor, floor: 4},
		{kind: kindEpoch, epoch: Epoch{1, "a", 2}},
		{kind: kindIntent, intent: intent(1)},
		{kind: kindResult, key: key(1), result: result(1), output: encodeOutput(result(1).Head, nil)},
		{kind: kindNever, intent: intent(2), result: Result{State: Expired}},
		{kind: kindConfirm, key: key(1)},
		{kind: kindStepIntent, key: key(1), step: step(1)},
		{kind: kindStepResult, key: key(1), step: Step{Number: 1, Result: stepResult(1)}},
		{kind: kindArm, key: key(1), guard: guard(true)},
		{kind: kindKeep, key: key(1), guard: Guard{By: "ann", KeptAt: 9}},
	}))
	f.Add(header{Format: 1, ID: ID{2}, Epoch: Epoch{1, "a", 2}, Count: 3}.encode())
	attempt, _ := encodeAttempt(ID{1}, Record{Intent: intent(1), Steps: []Step{ended(1), step(2)}, Result: result(1)}, encodeOutput(nil, result(1).Tail))
	f.Add(attempt)
	kept := guard(false)
	kept.keep(Guard{By: "n1", Contact: true, KeptAt: 9})
	attempt, _ = encodeAttempt(ID{1}, Record{Intent: intent(1), Steps: []Step{ended(1)}, Guard: kept}, nil)
	f.Add(attempt)
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, first, muts, err := decodeAppend(b); err == nil {
			again := encodeAppend(id, first, slices.Clone(muts))
			_, _, twice, err := decodeAppend(again)
			if err != nil || len(twice) != len(muts) {
				t.Fatalf("append does not survive: %v", err)
			}
		}
		if h, err := decodeHeader(b); err == nil && h.Format == format {
			if again, err := decodeHeader(h.encode()); err != nil || again != h {
				t.Fatalf("header %+v became %+v (%v)", h, again, err)
			}
		}
		if id, r, at, err := decodeAttempt(format, b); err == nil {
			again, at2 := encodeAttempt(id, r, b[at:])
			if _, r2, at3, err := decodeAttempt(format, again); err != nil || at3 != at2 || cmp.Diff(r, r2) != "" {
				t.Fatalf("attempt %+v became %+v (%v)", r, r2, err)
			}
		}
		if head, tail, err := decodeOutput(b); err == nil {
			h2, t2, err := decodeOutput(encodeOutput(head, tail))
			if err != nil || fmt.Sprint(h2, t2) != fmt.Sprint(head, tail) {
				t.Fatalf("output does not survive: %v", err)
			}
		}
	})
}
