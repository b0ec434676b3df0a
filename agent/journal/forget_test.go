package journal

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestForgetKeepsWhatIsOpenOrYoung(t *testing.T) {
	d := newDisk()
	j := fresh(t, d, Options{})
	for n := range 5 {
		in := intent(n)
		if n == 2 {
			in.NotAfter = 140 * day
		}
		must(t, j.Intent(in))
		if n != 1 {
			must(t, j.Result(key(n), result(n)))
		}
	}
	late := result(4)
	late.At = 120 * day
	must(t, j.Intent(intent(6)))
	must(t, j.Result(key(6), late))
	must(t, j.Confirm(key(0), key(3)))

	if gone, err := j.Forget(129 * day); err != nil || gone != nil {
		t.Fatalf("forgot %v too early (%v)", gone, err)
	}
	seq := j.Seq()
	gone, err := j.Forget(131 * day)
	must(t, err)
	// 1 has no result, 2 may start until day 140, 6 ended on day 120.
	if diff := cmp.Diff([]Key{key(0), key(3), key(4)}, gone); diff != "" {
		t.Fatal(diff)
	}
	for range 2 {
		if floor, _ := j.Floor(); floor != intent(4).Submitted+1 {
			t.Fatalf("floor is %d, want it past the youngest forgotten, %d", floor, intent(4).Submitted)
		}
		if j.Seq() != seq {
			t.Fatalf("seq went from %d to %d", seq, j.Seq())
		}
		wantErr(t, j.Intent(intent(3)), ErrForgotten)
		if r, ok := j.Lookup(key(6)); !ok || len(r.Result.Head) == 0 {
			t.Fatalf("a young result is gone: %+v %v", r, ok)
		}
		must(t, j.Close())
		j = mustOpen(t, d, Options{})
	}
}

func TestForgetDropsOldOutputOfConfirmedResults(t *testing.T) {
	j := fresh(t, newDisk(), Options{})
	for n := range 400 {
		must(t, j.Intent(intent(n)))
		r := result(n)
		r.Head = []Chunk{{1, make([]byte, 4<<10)}}
		must(t, j.Result(key(n), r))
		if n > 0 {
			must(t, j.Confirm(key(n)))
		}
	}
	before := j.size
	if gone, err := j.Forget(102 * day); err != nil || gone != nil {
		t.Fatalf("forgot %v (%v)", gone, err)
	}
	if j.size > before/4 {
		t.Fatalf("file has %d of %d bytes left", j.size, before)
	}
	if r, _ := j.Lookup(key(0)); len(r.Result.Head) != 1 || r.Result.OutputGone {
		t.Fatal("output of a result that the cluster has not confirmed is gone")
	}
	if r, _ := j.Lookup(key(1)); !r.Result.OutputGone || r.Result.ExitCode != 3 {
		t.Fatalf("confirmed result is %+v", r.Result)
	}
}

func TestForgetMakesRoomWhenNearlyFull(t *testing.T) {
	j := fresh(t, newDisk(), Options{MaxRecords: 8})
	for n := range 8 {
		must(t, j.Intent(intent(n)))
		if n < 6 {
			must(t, j.Result(key(n), result(n)))
			must(t, j.Confirm(key(n)))
		}
	}
	wantErr(t, j.Intent(intent(8)), ErrFull)
	gone, err := j.Forget(102 * day)
	must(t, err)
	if diff := cmp.Diff([]Key{key(0), key(1), key(2), key(3)}, gone); diff != "" {
		t.Fatal(diff)
	}
	must(t, j.Intent(intent(8)))
}

func TestFailedRewriteHarmsNothingUntilItsRename(t *testing.T) {
	for op := 1; op <= 8; op++ {
		d := newDisk()
		j := fresh(t, d, Options{})
		must(t, j.Intent(intent(1)))
		must(t, j.Result(key(1), result(1)))
		d.failAt = d.ops + op
		_, err := j.Forget(200 * day)
		// 1 create, 2 write, 3 fsync, 4 rename, 5 fsync of the directory, then removal
		switch {
		case op <= 3 && (err == nil || j.Err() != nil):
			t.Fatalf("op %d: error %v, journal %v; want it alive", op, err, j.Err())
		case (op == 4 || op == 5) && !errors.Is(err, ErrJournal):
			t.Fatalf("op %d: error %v, want a dead journal", op, err)
		case op > 5 && err != nil:
			t.Fatalf("op %d: %v", op, err)
		}
		if op <= 3 {
			must(t, j.Intent(intent(2)))
			if r, _ := j.Lookup(key(1)); len(r.Result.Head) != 2 {
				t.Fatalf("op %d: output is gone", op)
			}
		}
	}
}

func TestTwoGenerationsCanBeToldApart(t *testing.T) {
	// An image taken after one intent and put back later is behind in seq and prev.
	d := newDisk()
	j := fresh(t, d, Options{})
	must(t, j.SetEpoch(Epoch{Incarnation: 1, IncarnationID: "a", Session: 10}))
	must(t, j.Intent(intent(1)))
	must(t, j.Close())
	image := d.copy()
	j = mustOpen(t, d, Options{})
	must(t, j.SetEpoch(Epoch{Incarnation: 1, IncarnationID: "a", Session: 20}))
	must(t, j.Intent(intent(2)))
	back := mustOpen(t, image, Options{})
	if back.ID() != j.ID() || back.Seq() >= j.Seq() || back.Prev().Session >= j.Prev().Session {
		t.Fatalf("image: id %s seq %d prev %d; journal: id %s seq %d prev %d",
			back.ID(), back.Seq(), back.Prev().Session, j.ID(), j.Seq(), j.Prev().Session)
	}
	if other := mustOpen(t, newDisk(), Options{}); other.ID() == j.ID() {
		t.Fatal("a wiped disk has the same journal id")
	}
}

func BenchmarkForget(b *testing.B) {
	j, err := open(newDisk(), Options{})
	must(b, err)
	must(b, j.SetFloor(1))
	for n := range 10_000 {
		must(b, j.Intent(intent(n)))
		must(b, j.Result(key(n), result(n)))
	}
	for b.Loop() {
		j.base = 0
		if _, err := j.Forget(100*day + int64(time.Hour)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(j.size), "bytes")
}
