package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// startBench starts the built program with a temporary directory of its own, which
// it answers.
func startBench(t *testing.T, args ...string) (cmd *exec.Cmd, stdout, stderr *output, tmp string) {
	t.Helper()
	bin, err := lab.Build(t.Context(), ".", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	tmp = t.TempDir()
	cmd = exec.CommandContext(t.Context(), bin.Agentplane, append([]string{"bench"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	stdout, stderr = newOutput(), newOutput()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd, stdout, stderr, tmp
}

// nothingLeft checks that neither a file nor a process of the bench is there.
func nothingLeft(t *testing.T, tmp string) {
	t.Helper()
	if entries, err := os.ReadDir(tmp); err != nil || len(entries) > 0 {
		t.Errorf("the bench left %v (%v)", entries, err)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lines {
		if line, err := os.ReadFile(path); err == nil && bytes.Contains(line, []byte(tmp)) {
			t.Errorf("the bench left a process: %q", line)
		}
	}
}

func TestBenchMeasuresAll(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: -short; it starts six processes")
	}
	cmd, stdout, stderr, tmp := startBench(t, "--clients", "2", "--agents", "5", "--duration", "1s", "--warm-up", "100ms", "--rounds", "1", "--json")
	if err := cmd.Wait(); err != nil {
		t.Fatalf("bench: %v\n%s", err, stderr)
	}
	nothingLeft(t, tmp)
	var r benchReport
	d := json.NewDecoder(strings.NewReader(stdout.String()))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		t.Fatalf("read the output: %v\n%s", err, stdout)
	}
	if r.Nodes != 3 || r.Agents != 5 || r.CommandBytes != benchCommandBytes {
		t.Errorf("it measured %d nodes, %d agents and commands of %d bytes, want 3, 5 and %d", r.Nodes, r.Agents, r.CommandBytes, benchCommandBytes)
	}
	var steps []string
	for _, m := range r.Measurements {
		steps = append(steps, m.What)
		if m.Clients != 2 || m.Round != 1 || m.Calls == 0 || m.PerSecond <= 0 || m.TermBegin == 0 || m.TermEnd < m.TermBegin ||
			m.P50 <= 0 || m.P90 < m.P50 || m.P99 < m.P90 || m.Max < m.P99 {
			t.Errorf("a measurement makes no sense: %+v", m)
		}
		if len(m.Errors) > 0 && m.TermBegin == m.TermEnd {
			t.Errorf("%s: errors without a change of term: %v", m.What, m.Errors)
		}
	}
	if diff := cmp.Diff([]string{benchSubmit, benchBatch, benchRead, benchBare}, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if len(r.Medians) != 4 || len(r.Ratios) != 2 || r.Ratios[0].Ratio <= 0 {
		t.Errorf("medians %+v, ratios %+v", r.Medians, r.Ratios)
	}
}

func TestBenchInterruptedLeavesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: -short; it starts six processes")
	}
	cmd, stdout, stderr, tmp := startBench(t, "--clients", "2", "--agents", "5", "--duration", "1m", "--warm-up", "0s")
	for {
		text, change := stderr.watch()
		if strings.Contains(text, "the bare program run") {
			break
		}
		select {
		case <-change:
		case <-time.After(time.Minute):
			t.Fatalf("it did not begin to measure:\n%s", text)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitError {
		t.Errorf("it ended with %v, want exit code %d", err, exitError)
	}
	nothingLeft(t, tmp)
	if stdout.String() != "" {
		t.Errorf("an interrupted run prints on stdout:\n%s", stdout)
	}
	if !strings.Contains(stderr.String(), "agentplane: error: interrupted") {
		t.Errorf("it does not say that it was interrupted:\n%s", stderr)
	}
}

func TestBenchRefusesWhatItCannotMeasure(t *testing.T) {
	for _, test := range []struct{ name, value, want string }{
		{"--clients", "1,no", `--clients "1,no": "no" is not a number from 1 to 16384`},
		{"--clients", "0", `--clients "0": "0" is not a number`},
		{"--rounds", "0", "--rounds 0 is not from 1"},
		{"--agents", "0", "--agents 0 is not from 1"},
		{"--duration", "1ms", "--duration 1ms is not from"},
		{"--warm-up", "-1s", "--warm-up -1s is not from"},
		{"--through", "some", `--through "some" is neither`},
		{"--steps", "submit,write", `--steps "submit,write": "write" is none of submit, batch, read, bare`},
		{"--steps", "bare, read", `what read reads is what submit or batch has submitted: add one of them`},
	} {
		t.Run(test.name+" "+test.value, func(t *testing.T) {
			problem, _ := fails(t, exitUsage, nil, "bench", test.name, test.value)
			if !strings.Contains(problem, test.want) {
				t.Errorf("the error is %q, want %q in it", problem, test.want)
			}
		})
	}
}

func TestParseSteps(t *testing.T) {
	got, err := parseSteps("bare, batch,bare")
	if diff := cmp.Diff([]string{benchBatch, benchBare}, got); err != nil || diff != "" {
		t.Errorf("parseSteps: %v (-want +got):\n%s", err, diff)
	}
}

// scripted answers every call after a pause, and each third with an error.
type scripted struct{ calls int }

// What names the step.
func (*scripted) What() string { return "scripted" }

// Call counts.
func (s *scripted) Call(context.Context, int, int) error {
	s.calls++
	time.Sleep(time.Millisecond)
	if s.calls%3 == 0 {
		return errNothingSubmitted
	}
	return nil
}

// Term never changes.
func (*scripted) Term(context.Context) (uint64, error) { return 7, nil }

// Processes are none but this one.
func (*scripted) Processes() []int { return nil }

func TestProcessorTimeIsReadBehindAnyName(t *testing.T) {
	got, err := statTime("7 (a) 1 2 (b) S 1 7 7 0 -1 4194560 93 0 0 0 12 30 0 0 20 0 1 0 100 0 0")
	if want := 420 * time.Millisecond; err != nil || got != want {
		t.Errorf("statTime = %v, %v, want %v", got, err, want)
	}
	for _, damaged := range []string{"", "7 (a) S 1 2", "7 (a) S 1 7 7 0 -1 4194560 93 0 0 0 x 30 0 0"} {
		if got, err := statTime(damaged); err == nil {
			t.Errorf("statTime(%q) = %v, want an error", damaged, got)
		}
	}
}

func TestMeasureStepCountsCallsAndErrors(t *testing.T) {
	s := &scripted{}
	m, err := measureStep(t.Context(), s, 1, 0, 200*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	failed := 0
	for _, n := range m.Errors {
		failed += n
	}
	if m.Calls+failed != s.calls || failed != s.calls/3 {
		t.Errorf("of %d calls %d are counted as successes and %d as errors", s.calls, m.Calls, failed)
	}
	if m.TermBegin != 7 || m.TermEnd != 7 {
		t.Errorf("terms %d to %d, want 7", m.TermBegin, m.TermEnd)
	}
	if m.P50 < 1 {
		t.Errorf("p50 is %vms for calls of 1ms and more", m.P50)
	}
}

func TestSummaryIsOfTheMedianAndPairsRounds(t *testing.T) {
	r := &benchReport{}
	for round, rates := range [][2]float64{{100, 200}, {300, 300}, {200, 1000}} {
		r.Measurements = append(r.Measurements,
			measurement{What: benchSubmit, Clients: 4, Round: round + 1, PerSecond: rates[0], TermBegin: 2, TermEnd: 2 + uint64(round)},
			measurement{What: benchBare, Clients: 4, Round: round + 1, PerSecond: rates[1], Errors: map[string]int{"X": 1}})
	}
	r.summarize()
	if s := r.Medians[0]; s.PerSecond != 200 || s.Least != 100 || s.Most != 300 || s.TermChanges != 3 {
		t.Errorf("the summary of 100, 300, 200 is %+v", s)
	}
	if got := r.Medians[1].Errors["X"]; got != 3 {
		t.Errorf("%d errors X, want 3", got)
	}
	want := []benchRatio{{What: benchSubmit, Clients: 4, Ratio: 0.5, Least: 0.2, Most: 1}}
	if diff := cmp.Diff(want, r.Ratios); diff != "" {
		t.Errorf("ratios (-want +got):\n%s", diff)
	}
}

func TestPercentileIsTheNearestRank(t *testing.T) {
	var ten []time.Duration
	for i := range 10 {
		ten = append(ten, time.Duration(i+1)*time.Millisecond)
	}
	for p, want := range map[int]float64{50: 5, 90: 9, 99: 10, 100: 10} {
		if got := percentile(ten, p); got != want {
			t.Errorf("percentile %d of 1 to 10 ms = %v, want %v", p, got, want)
		}
	}
}
