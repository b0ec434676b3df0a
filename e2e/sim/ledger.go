package sim

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/proto/frame"
)

// ledger is the journal as the runner has it. agentd may die before each record, after it,
// and amid it: then a part of it is on the disk.
type ledger struct {
	execute.Journal
	g    *ground
	dead func() bool
	size func() int64 // of the journal's file
}

func (l ledger) append(what string, call func() error) error {
	if l.dead() || l.g.h.crashes("before "+what) {
		return errDead
	}
	bytes := l.size()
	if err := call(); err != nil {
		return err
	}
	l.g.mu.Lock()
	l.g.before = bytes
	l.g.mu.Unlock()
	if l.g.h.crashes(amid+what) || l.g.h.crashes("after "+what) || l.dead() {
		return errDead
	}
	return nil
}

// Points at which agentd may die: before the record with which the start of an attempt begins, and
// when a supervisor has been started.
const (
	anIntent     = "an intent"
	beforeIntent = "before " + anIntent
	afterFork    = "after the start of a supervisor"
)

// amid begins the points at which the record that was appended last is torn.
const amid = "amid "

// crashes says whether agentd dies at the point.
func (h *Host) crashes(point string) bool {
	h.mu.Lock()
	crash := h.crash
	h.mu.Unlock()
	return crash != nil && crash(point)
}

func (l ledger) Intent(s execute.Spec) error {
	return l.append(anIntent, func() error { return l.Journal.Intent(s) })
}

func (l ledger) Finish(a execute.Attempt, r execute.Result) error {
	return l.append("a result", func() error { return l.Journal.Finish(a, r) })
}

func (l ledger) StepIntent(a execute.Attempt, s execute.StepRecord) error {
	return l.append("the intent of a step", func() error { return l.Journal.StepIntent(a, s) })
}

func (l ledger) StepFinish(a execute.Attempt, s execute.StepRecord) error {
	return l.append("the result of a step", func() error { return l.Journal.StepFinish(a, s) })
}

func (l ledger) Arm(a execute.Attempt, g execute.Guard, left time.Duration) error {
	return l.append("a wait", func() error { return l.Journal.Arm(a, g, left) })
}

// Keep notes what is durable: that is the confirmation.
func (l ledger) Keep(a execute.Attempt, by string, contact bool) error {
	note := func(unsure bool) {
		l.g.mu.Lock()
		defer l.g.mu.Unlock()
		if k, known := l.g.kept[a]; !known || k.unsure {
			l.g.kept[a] = keptBy{by, contact, unsure}
		}
	}
	err := l.append("a confirmation", func() error {
		err := l.Journal.Keep(a, by, contact)
		if err == nil {
			note(true)
		}
		return err
	})
	if err == nil {
		note(false)
	}
	return err
}

// tear takes a part of the last record from the journal in a copy of agentd's directory. It
// must be the only one behind so many bytes.
func tear(dir string, before int64, part float64) (bool, error) {
	path, err := journalFile(dir)
	if err != nil || path == "" {
		return false, err
	}
	b, err := os.ReadFile(path)
	if err != nil || int64(len(b)) <= before {
		return false, err
	}
	if _, _, rest, err := frame.Parse(b[before:]); err != nil || len(rest) > 0 {
		return false, nil // another record came behind it, or the file was written anew
	}
	return true, os.Truncate(path, before+int64(part*float64(int64(len(b))-before)))
}

// journalBytes is how long it is.
func journalBytes(dir string) int64 {
	path, err := journalFile(dir)
	if err != nil || path == "" {
		return 0
	}
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Size()
}

// journalFile is the newest one of a journal.
func journalFile(dir string) (string, error) {
	all, err := filepath.Glob(filepath.Join(dir, "journal", "journal-*"))
	best, number := "", -1
	for _, path := range all {
		if n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(path), "journal-")); err == nil && n > number {
			best, number = path, n
		}
	}
	return best, err
}
