package journal

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func guard(again bool) Guard {
	return Guard{Armed: true, BootID: "boot", Deadline: 600e9, Until: 100*day + 600, Again: again, At: 100*day + 7}
}

func TestAConfirmationAndAnUndoRuleEachOtherOut(t *testing.T) {
	const ann = "ann"
	known := errors.New("a KnownError")
	arm := func(j *Journal, again bool) error { return j.Arm(key(1), guard(again)) }
	keep := func(j *Journal) error { return j.Keep(key(1), ann, false, 100*day+9) }
	undo := func(j *Journal) error { return j.StepIntent(key(1), Step{Number: 2, Of: 1, Name: "not_confirmed"}) }
	type act struct {
		what string
		do   func(*Journal) error
		want error
	}
	begun := []act{
		{"it waits before its program has begun", func(j *Journal) error { return arm(j, false) }, ErrInvalid},
		{"its program begins", func(j *Journal) error { return j.StepIntent(key(1), Step{Number: 1, Of: 1}) }, nil},
		{"it waits before its program has ended", func(j *Journal) error { return arm(j, false) }, ErrInvalid},
		{"it is confirmed before it waits", keep, ErrNotArmed},
		{"its program ends", func(j *Journal) error { return j.StepResult(key(1), 1, stepResult(1)) }, nil},
		{"it is confirmed before it waits, still", keep, ErrNotArmed},
		{"it waits", func(j *Journal) error { return arm(j, false) }, nil},
		{"it waits already", func(j *Journal) error { return arm(j, false) }, ErrInvalid},
		{"the host is started anew", func(j *Journal) error { return arm(j, true) }, nil},
		{"and again", func(j *Journal) error { return arm(j, true) }, ErrInvalid},
	}
	for name, acts := range map[string][]act{
		"the confirmation is first": {
			{"it is confirmed", keep, nil},
			{"it is confirmed again", keep, known},
			{"it waits again", func(j *Journal) error { return arm(j, true) }, known},
			{"it is undone", undo, ErrKept},
			{"it ends", func(j *Journal) error { return j.Result(key(1), result(1)) }, nil},
			{"it is confirmed after its end", keep, known},
		},
		"the undo is first": {
			{"it is undone", undo, nil},
			{"it is confirmed", keep, ErrTooLate},
			{"it waits again", func(j *Journal) error { return arm(j, true) }, ErrInvalid},
			{"the undo ends", func(j *Journal) error { return j.StepResult(key(1), 2, stepResult(2)) }, nil},
			{"it is confirmed, still", keep, ErrTooLate},
			{"it ends", func(j *Journal) error { return j.Result(key(1), result(1)) }, nil},
			{"it is confirmed after its end", keep, ErrTooLate},
			{"it waits after its end", func(j *Journal) error { return arm(j, true) }, known},
		},
		"nobody knows it": {
			{"it waits", func(j *Journal) error { return j.Arm(key(2), guard(false)) }, ErrUnknown},
			{"it is confirmed", func(j *Journal) error { return j.Keep(key(2), ann, false, 1) }, ErrUnknown},
			{"a boot id that is too long", func(j *Journal) error {
				return j.Arm(key(1), Guard{BootID: strings.Repeat("b", MaxIDBytes+1)})
			}, ErrInvalid},
		},
	} {
		t.Run(name, func(t *testing.T) {
			j := fresh(t, newDisk(), Options{})
			must(t, j.Intent(intent(1)))
			for _, a := range append(begun, acts...) {
				err := a.do(j)
				switch {
				case a.want == nil && err == nil:
				case a.want == known && errors.As(err, new(*KnownError)):
				case a.want != nil && errors.Is(err, a.want):
				default:
					t.Errorf("%s: %v, want %v", a.what, err, a.want)
				}
			}
		})
	}
}

func TestGuardsSurvive(t *testing.T) {
	disk := newDisk()
	j := fresh(t, disk, Options{})
	want := map[Key]Guard{}
	for n := 1; n <= 4; n++ {
		must(t, j.Intent(intent(n)))
		must(t, j.StepIntent(key(n), Step{Number: 1, Of: 1}))
		must(t, j.StepResult(key(n), 1, stepResult(1)))
		if n > 1 {
			must(t, j.Arm(key(n), guard(false)))
			want[key(n)] = guard(false)
		}
		if n > 2 {
			must(t, j.Arm(key(n), guard(true)))
			want[key(n)] = guard(true)
		}
		if n > 3 {
			must(t, j.Keep(key(n), "node n1"+strings.Repeat("x", 500), true, 100*day+9))
			g := want[key(n)]
			g.Kept, g.By, g.Contact, g.KeptAt = true, ("node n1" + strings.Repeat("x", 500))[:MaxTextBytes], true, 100*day+9
			want[key(n)] = g
		}
	}
	compare := func(when string, j *Journal) {
		t.Helper()
		for n := 1; n <= 4; n++ {
			r, _ := j.Lookup(key(n))
			if diff := cmp.Diff(want[key(n)], r.Guard); diff != "" {
				t.Errorf("%s, guard %d differs:\n%s", when, n, diff)
			}
		}
	}
	compare("at once", j)
	must(t, j.Close())
	for _, when := range []string{"opened again", "after a rewrite"} {
		again, err := open(disk, Options{})
		must(t, err)
		compare(when, again)
		must(t, again.Close())
	}
}
