package journal

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentplane/agentplane/proto/frame"
)

func step(n uint32) Step {
	return Step{Number: n, Of: 3, Name: []string{"drain", "upgrade", "check"}[(n-1)%3], At: 100*day + int64(n)}
}

// stepResult is a result that has no output, as the journal keeps it.
func stepResult(n uint32) Result {
	r := result(int(n))
	r.Head, r.Tail = nil, nil
	return r
}

func ended(n uint32) Step {
	s := step(n)
	s.Result = stepResult(n)
	return s
}

func TestStepsFollowEachOther(t *testing.T) {
	j := fresh(t, newDisk(), Options{})
	must(t, j.Intent(intent(1)))
	must(t, j.Never(intent(9), Rejected, "policy", ""))
	known := errors.New("a KnownError")
	for _, c := range []struct {
		what string
		do   func() error
		want error
	}{
		{"a result before any intent", func() error { return j.StepResult(key(1), 1, stepResult(1)) }, ErrInvalid},
		{"step 0", func() error { return j.StepIntent(key(1), Step{}) }, ErrInvalid},
		{"the first", func() error { return j.StepIntent(key(1), step(1)) }, nil},
		{"the first again", func() error { return j.StepIntent(key(1), step(1)) }, known},
		{"the second beside it", func() error { return j.StepIntent(key(1), step(2)) }, ErrInvalid},
		{"the second's result", func() error { return j.StepResult(key(1), 2, stepResult(2)) }, ErrInvalid},
		{"a state that is none", func() error { return j.StepResult(key(1), 1, Result{State: "DONE"}) }, ErrInvalid},
		{"the first's result", func() error { return j.StepResult(key(1), 1, result(1)) }, nil},
		{"the first's result again", func() error { return j.StepResult(key(1), 1, result(1)) }, known},
		{"a name that is too long", func() error { return j.StepIntent(key(1), Step{Number: 2, Name: strings.Repeat("n", MaxNameBytes+1)}) }, ErrInvalid},
		{"what comes after all steps", func() error { return j.StepIntent(key(1), step(4)) }, nil},
		{"its result", func() error { return j.StepResult(key(1), 4, stepResult(4)) }, nil},
		{"one before it", func() error { return j.StepIntent(key(1), step(2)) }, ErrInvalid},
		{"a step of nothing", func() error { return j.StepIntent(key(2), step(1)) }, ErrUnknown},
		{"a step of what never started", func() error { return j.StepIntent(key(9), step(1)) }, known},
		{"the result", func() error { return j.Result(key(1), result(1)) }, nil},
		{"a step after the result", func() error { return j.StepIntent(key(1), step(5)) }, known},
	} {
		err := c.do()
		switch {
		case c.want == nil && err == nil:
		case c.want == known && errors.As(err, new(*KnownError)):
		case c.want != nil && errors.Is(err, c.want):
		default:
			t.Errorf("%s gives %v, want %v", c.what, err, c.want)
		}
	}
	r, _ := j.Lookup(key(1))
	if diff := cmp.Diff([]Step{ended(1), ended(4)}, r.Steps); diff != "" {
		t.Errorf("steps differ:\n%s", diff)
	}
}

func TestStepsAreBounded(t *testing.T) {
	j := fresh(t, newDisk(), Options{})
	must(t, j.Intent(intent(1)))
	for n := uint32(1); n <= MaxSteps; n++ {
		must(t, j.StepIntent(key(1), step(n)))
		must(t, j.StepResult(key(1), n, stepResult(n)))
	}
	wantErr(t, j.StepIntent(key(1), step(MaxSteps+1)), ErrInvalid)
	must(t, j.Result(key(1), result(1)))
}

// What has begun is to be brought to its end, also when nothing new may begin.
func TestStepsAreTakenByAFullJournal(t *testing.T) {
	d := newDisk()
	j := fresh(t, d, Options{MaxRecords: 1})
	must(t, j.Intent(intent(1)))
	d.free = 1
	wantErr(t, j.Intent(intent(2)), ErrFull)
	must(t, j.StepIntent(key(1), step(1)))
	must(t, j.StepResult(key(1), 1, stepResult(1)))
}

func TestReopenFindsSteps(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j, err := Open(dir, Options{ReserveBytes: -1})
	must(t, err)
	must(t, j.SetFloor(100*day))
	must(t, j.Intent(intent(1)))
	must(t, j.StepIntent(key(1), step(1)))
	must(t, j.StepResult(key(1), 1, result(1)))
	read, _ := j.Lookup(key(1))
	must(t, j.StepIntent(key(1), step(2)))
	if len(read.Steps) != 1 {
		t.Fatal("a record that was read has changed")
	}
	before := slices.Collect(j.Records())
	must(t, j.Close())
	for range 2 { // the second reads what the first wrote anew
		j, err = Open(dir, Options{ReserveBytes: -1})
		must(t, err)
		if diff := cmp.Diff(before, slices.Collect(j.Records())); diff != "" || len(before[0].Steps) != 2 {
			t.Fatalf("records changed (-before +after):\n%s", diff)
		}
		must(t, j.Close())
	}
}

// The appends of attempts without steps are, byte for byte, those of format 1.
func TestRecordsWithoutStepsAreWhatTheyWere(t *testing.T) {
	old, err := os.ReadFile(filepath.Join("testdata", "format-1.journal"))
	must(t, err)
	appends := 0
	for len(old) > 0 {
		typ, payload, rest, err := frame.Parse(old)
		must(t, err)
		old = rest
		if typ != frameAppend {
			continue
		}
		id, first, muts, err := decodeAppend(payload)
		must(t, err)
		if again := encodeAppend(id, first, muts); string(again) != string(payload) {
			t.Errorf("append %d was %x, is %x", first, payload, again)
		}
		appends++
	}
	if appends == 0 {
		t.Fatal("there are no appends in it")
	}
}
