package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const day = int64(24 * time.Hour)

func key(n int) Key { return Key{InvocationID: fmt.Sprintf("inv-%d", n), Attempt: 1} }

func intent(n int) Intent {
	return Intent{
		Key: key(n), CommandID: fmt.Sprintf("cmd-%d", n), Fence: uint64(n) << 8, Digest: [32]byte{byte(n)},
		Submitted: 100*day + int64(n), NotAfter: 101 * day, At: 100*day + int64(n) + 5,
	}
}

func result(n int) Result {
	return Result{
		State: Failed, Reason: "exit", Detail: "the program ended with 3", Started: true, ExitCode: 3,
		StartedAt: 7, EndedAt: 9, Duration: 2, StdoutBytes: uint64(n), StderrBytes: 5,
		Head: []Chunk{{Stream: 1, Data: fmt.Appendf(nil, "out %d", n)}, {Stream: 2, Data: []byte("err")}},
		Tail: []Chunk{{Stream: 1, Data: []byte("end")}},
		At:   100*day + int64(n) + 6,
	}
}

func mustOpen(t testing.TB, fs fsys, o Options) *Journal {
	t.Helper()
	j, err := open(fs, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

// fresh is a journal on d with a floor.
func fresh(t testing.TB, d *disk, o Options) *Journal {
	t.Helper()
	j := mustOpen(t, d, o)
	must(t, j.SetFloor(100*day))
	return j
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("error is %v, want %v", got, want)
	}
}

func TestReopenFindsEverything(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j, err := Open(dir, Options{ReserveBytes: -1})
	must(t, err)
	if !j.Opening().New || j.Opening().Damage != nil {
		t.Fatalf("opening of an empty directory is %+v", j.Opening())
	}
	epoch := Epoch{Incarnation: 1, IncarnationID: "abc", Session: 1<<52 | 77}
	must(t, j.SetFloor(100*day))
	must(t, j.SetEpoch(epoch))
	for n := range 3 {
		must(t, j.Intent(intent(n)))
	}
	must(t, j.Result(key(0), result(0)))
	must(t, j.Result(key(1), result(1)))
	must(t, j.Confirm(key(1)))
	must(t, j.Never(intent(9), Rejected, "policy", "argv is not allowed"))
	before := slices.Collect(j.Records())
	id, seq := j.ID(), j.Seq()
	must(t, j.Close())

	for range 2 { // the second reads what the first wrote anew
		j, err = Open(dir, Options{ReserveBytes: -1})
		must(t, err)
		if diff := cmp.Diff(before, slices.Collect(j.Records())); diff != "" {
			t.Fatalf("records changed (-before +after):\n%s", diff)
		}
		floor, ok := j.Floor()
		if j.ID() != id || j.Seq() != seq || j.Prev() != epoch || floor != 100*day || !ok || j.Opening() != (Opening{}) {
			t.Fatalf("reopened: id %s seq %d prev %+v floor %d %+v", j.ID(), j.Seq(), j.Prev(), floor, j.Opening())
		}
		must(t, j.Close())
	}
	if seq != 9 {
		t.Fatalf("seq is %d after nine records", seq)
	}
	if diff := cmp.Diff(result(0), before[0].Result); diff != "" {
		t.Fatalf("result differs:\n%s", diff)
	}
}

func TestOpenRecordsAreWhatTheClusterWaitsFor(t *testing.T) {
	j := fresh(t, newDisk(), Options{})
	for n := range 3 {
		must(t, j.Intent(intent(n)))
	}
	must(t, j.Result(key(1), result(1)))
	must(t, j.Result(key(2), result(2)))
	must(t, j.Never(intent(3), Canceled, "canceled", ""))
	must(t, j.Confirm(key(2), key(99), key(2)))
	must(t, j.Confirm(key(2)))
	var got []Key
	for _, r := range j.OpenRecords() {
		got = append(got, r.Key)
	}
	if diff := cmp.Diff([]Key{key(0), key(1), key(3)}, got); diff != "" {
		t.Fatal(diff)
	}
}

func TestRefusals(t *testing.T) {
	d := newDisk()
	j := mustOpen(t, d, Options{MaxRecords: 8})
	wantErr(t, j.Intent(intent(1)), ErrNoFloor)
	must(t, j.SetFloor(100*day))
	must(t, j.SetFloor(100*day))
	wantErr(t, j.SetFloor(101*day), ErrFloorSet)

	old := intent(1)
	old.Submitted = 100*day - 1
	wantErr(t, j.Intent(old), ErrForgotten)
	must(t, j.Never(old, Rejected, "forgotten", ""))

	must(t, j.Intent(intent(2)))
	wantErr(t, j.Confirm(key(2)), ErrInvalid)
	wantErr(t, j.Result(key(3), result(3)), ErrUnknown)
	wantErr(t, j.Result(key(2), Result{State: "DONE"}), ErrInvalid)
	wantErr(t, j.Intent(Intent{}), ErrInvalid)
	must(t, j.Result(key(2), result(2)))

	for what, err := range map[string]error{
		"second intent": j.Intent(intent(2)),
		"second result": j.Result(key(2), result(2)),
		"never":         j.Never(intent(2), Canceled, "", ""),
	} {
		var known *KnownError
		if !errors.As(err, &known) {
			t.Fatalf("%s gives %v, want a KnownError", what, err)
		}
		if diff := cmp.Diff(result(2), known.Record.Result); diff != "" {
			t.Fatalf("%s: known record differs:\n%s", what, diff)
		}
	}
	if err := j.Intent(old); !strings.Contains(err.Error(), "never started, REJECTED") {
		t.Fatalf("intent after never gives %v", err)
	}

	must(t, j.SetEpoch(Epoch{Incarnation: 1, IncarnationID: "a", Session: 5}))
	seq := j.Seq()
	must(t, j.SetEpoch(Epoch{Incarnation: 1, IncarnationID: "a", Session: 5}))
	if j.Seq() != seq {
		t.Fatal("the same epoch was journalled twice")
	}
	wantErr(t, j.SetEpoch(Epoch{Incarnation: 1, IncarnationID: "a", Session: 4}), ErrOlderEpoch)
	wantErr(t, j.SetEpoch(Epoch{Incarnation: 1, IncarnationID: "b", Session: 6}), ErrOlderEpoch)
	must(t, j.SetEpoch(Epoch{Incarnation: 2, IncarnationID: "b", Session: 6}))
	wantErr(t, j.SetEpoch(Epoch{Incarnation: 1, IncarnationID: "a", Session: 7}), ErrOlderEpoch)
}

func TestBoundsLeaveRoomForResultsAndRefusals(t *testing.T) {
	d := newDisk()
	j := fresh(t, d, Options{MaxRecords: 4})
	for n := range 4 {
		must(t, j.Intent(intent(n)))
	}
	wantErr(t, j.Intent(intent(4)), ErrFull)
	must(t, j.Never(intent(4), Rejected, "journal_full", ""))
	wantErr(t, j.Never(intent(5), Rejected, "journal_full", ""), ErrFull)
	must(t, j.Result(key(0), result(0)))

	d.free = 1 << 20
	j = fresh(t, newDiskWithFree(1<<20), Options{})
	wantErr(t, j.Intent(intent(1)), ErrFull)
	must(t, j.Never(intent(1), Rejected, "disk_full", ""))
	var known *KnownError
	if err := j.Intent(intent(1)); !errors.As(err, &known) {
		t.Fatalf("a known attempt on a full disk gives %v", err)
	}
	must(t, j.Err())
}

func newDiskWithFree(n uint64) *disk {
	d := newDisk()
	d.free = n
	return d
}

func TestResultIsCutToItsBounds(t *testing.T) {
	j := fresh(t, newDisk(), Options{})
	must(t, j.Intent(intent(1)))
	r := result(1)
	r.Detail = strings.Repeat("é", MaxTextBytes)
	r.Head = []Chunk{{1, []byte(strings.Repeat("h", 6<<10))}}
	r.Tail = []Chunk{{1, []byte(strings.Repeat("x", 6<<10))}, {2, []byte("last words")}}
	must(t, j.Result(key(1), r))
	got, _ := j.Lookup(key(1))
	size := 0
	for _, c := range slices.Concat(got.Result.Head, got.Result.Tail) {
		size += len(c.Data) + chunkCostBytes
	}
	last := got.Result.Tail[len(got.Result.Tail)-1]
	if size != MaxOutputBytes || string(last.Data) != "last words" || got.Result.Tail[0].Stream != 1 {
		t.Fatalf("kept %d bytes, last %q", size, last.Data)
	}
	if len(got.Result.Detail) > MaxTextBytes || strings.ContainsRune(got.Result.Detail, '\uFFFD') {
		t.Fatalf("detail is %q", got.Result.Detail)
	}
}

func TestFailureIsForEver(t *testing.T) {
	for _, what := range []string{"write", "fsync"} {
		t.Run(what, func(t *testing.T) {
			d := newDisk()
			j := fresh(t, d, Options{})
			must(t, j.Intent(intent(1)))
			d.failAt = d.ops + 1
			if what == "fsync" {
				d.failAt++
			}
			err := j.Intent(intent(2))
			wantErr(t, err, ErrJournal)
			wantErr(t, err, errIO)
			for _, err := range []error{
				j.Intent(intent(3)), j.Result(key(1), result(1)), j.Never(intent(4), Rejected, "", ""),
				j.SetEpoch(Epoch{Session: 9}), j.Err(),
			} {
				wantErr(t, err, ErrJournal)
			}
			if _, err := j.Forget(900 * day); !errors.Is(err, ErrJournal) {
				t.Fatalf("Forget of a dead journal gives %v", err)
			}
			if _, ok := j.Lookup(key(2)); ok {
				t.Fatal("an attempt whose intent failed is known")
			}
			if _, ok := j.Lookup(key(1)); !ok {
				t.Fatal("a dead journal cannot be read")
			}
		})
	}
}

func TestDiskFullNeverAcknowledges(t *testing.T) {
	d := newDisk()
	j := fresh(t, d, Options{})
	d.capacity = 2000
	var acked int
	for n := 1; ; n++ {
		if err := j.Intent(intent(n)); err != nil {
			wantErr(t, err, ErrJournal)
			wantErr(t, err, errSpace)
			break
		}
		acked = n
	}
	j.Close()
	if acked == 0 {
		t.Fatal("nothing fitted on the disk: the test is void")
	}
	if _, err := open(d, Options{}); !errors.Is(err, errSpace) {
		t.Fatalf("opening on a full disk gives %v", err)
	}
	d.capacity = 0
	j = mustOpen(t, d, Options{})
	if j.Opening().CutBytes == 0 || j.Opening().New {
		t.Fatalf("opening is %+v, want the torn intent cut", j.Opening())
	}
	if got := len(j.keys()); got != acked {
		t.Fatalf("%d attempts known, %d were acknowledged", got, acked)
	}
}

func TestClosedJournalTakesNothing(t *testing.T) {
	d := newDisk()
	j := fresh(t, d, Options{})
	must(t, j.Intent(intent(1)))
	must(t, j.Result(key(1), result(1)))
	if _, err := open(d, Options{}); !errors.Is(err, ErrLocked) {
		t.Fatalf("second open gives %v", err)
	}
	must(t, j.Close())
	must(t, j.Close())
	wantErr(t, j.Intent(intent(2)), ErrJournal)
	if r, ok := j.Lookup(key(1)); !ok || !r.Result.OutputGone {
		t.Fatalf("lookup after close gives %+v %v", r, ok)
	}
}

func TestDirectoryIsPrivateAndLocked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j, err := Open(dir, Options{})
	must(t, err)
	defer j.Close()
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Fatalf("second open gives %v", err)
	}
	soon := time.AfterFunc(lockPatience/10, func() { j.Close() })
	defer soon.Stop()
	next, err := Open(dir, Options{})
	must(t, err) // whoever holds it for a moment only does not matter
	defer next.Close()
	st, err := os.Stat(dir)
	must(t, err)
	if st.Mode().Perm() != 0o700 {
		t.Fatalf("directory has mode %v", st.Mode())
	}
	loose := filepath.Join(t.TempDir(), "loose")
	must(t, os.Mkdir(loose, 0o755))
	if _, err := Open(loose, Options{}); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Fatalf("open of a readable directory gives %v", err)
	}
}

func TestConcurrentAppendsAreAllThere(t *testing.T) {
	d := newDisk()
	j := fresh(t, d, Options{})
	done := make(chan error)
	for n := range 8 {
		go func() {
			var err error
			for i := range 20 {
				k := intent(n*100 + i)
				err = errors.Join(err, j.Intent(k), j.Result(k.Key, result(n)), j.Confirm(k.Key))
				if _, ferr := j.Forget(100 * day); ferr != nil {
					err = errors.Join(err, ferr)
				}
				if r, ok := j.Lookup(k.Key); !ok || !r.Confirmed {
					err = errors.Join(err, fmt.Errorf("%s is %+v", k.Key, r))
				}
			}
			done <- err
		}()
	}
	for range 8 {
		must(t, <-done)
	}
	must(t, j.Close())
	j = mustOpen(t, d, Options{})
	if len(j.keys()) != 160 || j.Seq() != 1+3*160 {
		t.Fatalf("%d attempts, seq %d", len(j.keys()), j.Seq())
	}
}
