package execute

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"time"
)

// hide puts a directory in the place of a record, which nobody can read then, and gives what puts the
// record back.
func hide(t *testing.T, d directory, name string) (back func()) {
	t.Helper()
	aside := d.path(name + ".aside")
	there := d.has(name)
	if there {
		must(t, os.Rename(d.path(name), aside))
	}
	must(t, os.Mkdir(d.path(name), 0o700))
	return func() {
		t.Helper()
		must(t, os.Remove(d.path(name)))
		if there {
			must(t, os.Rename(aside, d.path(name)))
		}
	}
}

// ended is an attempt whose supervisor is gone, and whose end nobody has read yet.
func ended(t *testing.T, line string) *Run {
	t.Helper()
	r, _ := newRunner(t)
	run := start(t, r, shell(line))
	eventually(t, "the end of the program", func() bool {
		lock, held, err := run.d.tryLock()
		if lock != nil {
			_ = lock.Close()
		}
		return err == nil && !held && run.d.has(fileExit)
	})
	return run
}

func TestAnEndThatCannotBeReadIsReadLater(t *testing.T) {
	run := ended(t, "exit 4")
	back := hide(t, run.d, fileExit)
	if _, err := run.Wait(t.Context()); !errors.Is(err, syscall.EISDIR) {
		t.Fatalf("wait = %v, want that the record cannot be read", err)
	}
	back()
	res := wait(t, run)
	wantResult(t, res, Failed, ReasonExit)
	if res.ExitCode != 4 {
		t.Errorf("result is %+v", res)
	}
}

func TestAnEndThatCanNeverBeReadIsLost(t *testing.T) {
	run := ended(t, "exit 4")
	hide(t, run.d, fileExit)
	run.unread = time.Now().Add(-exitRetryFor)
	res := wait(t, run)
	wantResult(t, res, Lost, ReasonSupervisorGone)
	if !res.Started {
		t.Errorf("result is %+v, want that the program was started", res)
	}
}

// An undo is started again only when it provably was not let go.
func TestAStartThatCannotBeReadIsAStart(t *testing.T) {
	run := ended(t, "true")
	must(t, os.Remove(run.d.path(fileExit)))
	hide(t, run.d, fileStarted)
	if _, err := run.Wait(t.Context()); !errors.Is(err, syscall.EISDIR) {
		t.Fatalf("wait = %v, want that the record cannot be read", err)
	}
	run.unread = time.Now().Add(-exitRetryFor)
	res := wait(t, run)
	wantResult(t, res, Lost, ReasonSupervisorGone)
	if !res.Started {
		t.Errorf("result is %+v, want that the program may have been started", res)
	}
}

func TestAStartThatIsDamagedIsAStart(t *testing.T) {
	run := ended(t, "true")
	must(t, os.Remove(run.d.path(fileExit)))
	must(t, os.WriteFile(run.d.path(fileStarted), []byte("spoilt"), 0o600))
	res := wait(t, run)
	wantResult(t, res, Lost, ReasonSupervisorGone)
	if !res.Started {
		t.Errorf("result is %+v, want that the program may have been started", res)
	}
}
