// Package record keeps the track record of the proofs: one line of tab-separated text
// for each batch of lives, chaos run, fuzz target or whole round of mutants, appended to
// a file that is committed (e2e/results.tsv) and that e2e/README.md sums up.
package record

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// fileVar names the file to append to; without it nothing is recorded. commitVar says
// what was tried.
const (
	fileVar   = "AGENTPLANE_RECORD"
	commitVar = "AGENTPLANE_COMMIT"
)

// Header names the columns, in order; .ci/fuzz writes such lines too.
const Header = "date\tcommit\tmeans\twhat\tseed\truns\tgood\tvoid\tfailed\tseconds\tnotes"

// Line is what was tried at once, and how it went.
type Line struct {
	// Means is lives, consensus, chaos, fuzz, teeth or mutant; What narrows it: the faults of a
	// chaos run, the target of a fuzz run, the mutant with which lives were lived until one was red.
	Means, What string
	// Seed is the first one; Runs counts from it.
	Seed uint64
	// Runs is the sum of the three after it. A void run had too few faults that took
	// effect, or too little that was acknowledged.
	Runs, Good, Void, Failed int
	// Took is by the clock on the wall, to the second.
	Took time.Duration
	// Notes are figures worth keeping, as name=value.
	Notes []string
}

// String is the line as the file holds it, but for date and commit.
func (l Line) String() string {
	return fmt.Sprintf("%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s",
		l.Means, l.What, l.Seed, l.Runs, l.Good, l.Void, l.Failed, int(l.Took.Seconds()), strings.Join(l.Notes, " "))
}

// Append adds the line to the file that the environment names, in one write, so that
// several processes may append at once. Without a name it does nothing.
func Append(l Line) error {
	name := os.Getenv(fileVar)
	if name == "" {
		return nil
	}
	commit := os.Getenv(commitVar)
	if commit == "" {
		return fmt.Errorf("record to %s: %s does not say which commit was tried", name, commitVar)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	text := fmt.Sprintf("%s\t%s\t%s\n", time.Now().UTC().Format(time.DateOnly), commit, l)
	if info.Size() == 0 {
		text = Header + "\n" + text
	}
	if _, err := f.WriteString(text); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return nil
}
