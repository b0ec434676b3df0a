package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client/clienttest"
)

// Ctrl-C ends the printing, not the command, and says how to come back.
func TestInterruptedFollowDetaches(t *testing.T) {
	w := newWorld(t, 1, time.Hour, time.Hour)
	w.cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{After: -1})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stdout bytes.Buffer
	stderr := &watched{on: func(all string) {
		if strings.Contains(all, "on 1 agent") {
			time.AfterFunc(200*time.Millisecond, cancel) // as Ctrl-C does
		}
	}}
	code := run(ctx, []string{"run", "--on", "all", "--follow", "--", "sleep", "1d"}, w.getenv, nil, &stdout, stderr)
	if code != exitError {
		t.Errorf("exit %d, want %d\n%s", code, exitError, stderr)
	}
	id := w.cluster.State.Commands()[0]
	for _, want := range []string{
		"agentctl: error: detached; command " + id + " goes on",
		"agentctl: hint: come back: agentctl commands attach " + id + "; or cancel it: agentctl commands cancel " + id,
	} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("stderr has no %q:\n%s", want, stderr)
		}
	}
}

// However the bytes of a stream are cut into chunks, whole lines are printed, each once,
// in order; without a prefix the bytes are what was printed.
func TestLinesAreWholeHoweverTheyCome(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SliceOf(rapid.SampledFrom([]byte("ab\n\r\xc3\xa9\x1b\x00\xff"))).Draw(t, "text")
		var lines, exact, shown bytes.Buffer
		whole, raw, term := &sink{to: &lines, prefix: "web | ", whole: true}, &sink{to: &exact}, &sink{to: &shown, plain: true}
		for rest := text; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "chunk")
			for _, s := range []*sink{whole, raw, term} {
				_, _ = s.Write(rest[:n])
			}
			rest = rest[n:]
		}
		for _, s := range []*sink{whole, raw, term} {
			s.flush()
		}
		if !bytes.Equal(exact.Bytes(), text) {
			t.Fatalf("printed %q, want %q", &exact, text)
		}
		want := ""
		for _, l := range strings.SplitAfter(string(text), "\n") {
			if l != "" {
				want += "web | " + strings.TrimSuffix(l, "\n") + "\n"
			}
		}
		if lines.String() != want {
			t.Fatalf("printed %q, want %q", &lines, want)
		}
		if !utf8.Valid(shown.Bytes()) || bytes.ContainsAny(shown.Bytes(), "\x1b\x00") {
			t.Fatalf("a terminal was told %q", &shown)
		}
		if strings.Count(string(text), "é") != strings.Count(shown.String(), "é") {
			t.Fatalf("of %q was shown %q", text, &shown)
		}
	})
}

// The names stand in one column from the first line on, whoever prints first.
func TestNamesStandInOneColumn(t *testing.T) {
	var out bytes.Buffer
	all := []*agentplanev1.Invocation{{AgentName: "a"}, {AgentName: "database-1"}, {AgentId: "id-3"}}
	p := newLinePrinter(&app{stdout: &out, stderr: &out}, false, all)
	for _, i := range all {
		if err := p.take(&agentplanev1.FollowItem{InvocationId: i.AgentName, AgentName: i.AgentName, AgentId: i.AgentId, Chunks: []*agentplanev1.OutputChunk{
			{Stream: agentplanev1.OutputStream_OUTPUT_STREAM_STDOUT, Data: []byte("x\n")},
		}}); err != nil {
			t.Fatal(err)
		}
	}
	if want := "a          | x\ndatabase-1 | x\nid-3       | x\n"; out.String() != want {
		t.Errorf("printed %q, want %q", &out, want)
	}
}

func TestNamesakesAreToldOf(t *testing.T) {
	var agents []*agentplanev1.Agent
	for _, name := range []string{"web", "db", "web"} {
		agents = append(agents, &agentplanev1.Agent{Name: name})
	}
	if got := namesakes(agents); len(got) != 1 || !strings.Contains(got[0], `2 agents are named "web"`) {
		t.Errorf("told is %q", got)
	}
	if got := namesakes(agents[:2]); len(got) > 0 {
		t.Errorf("told is %q of names that differ", got)
	}
	for n := range 2 * (maxNamesakes + 3) {
		agents = append(agents, &agentplanev1.Agent{Name: string(rune('a' + n/2))})
	}
	if got := namesakes(agents); len(got) != maxNamesakes+1 {
		t.Errorf("told is %q, want no more than %d names", got, maxNamesakes)
	}
}

// What came is compared with what was recorded.
func TestWholeOutputIsCompared(t *testing.T) {
	totals := func(bytes uint64, sum string) *agentplanev1.OutputTotals {
		empty := "\xe3\xb0\xc4\x42\x98\xfc\x1c\x14\x9a\xfb\xf4\xc8\x99\x6f\xb9\x24\x27\xae\x41\xe4\x64\x9b\x93\x4c\xa4\x95\x99\x1b\x78\x52\xb8\x55"
		if sum == "" {
			sum = empty
		}
		return &agentplanev1.OutputTotals{Stdout: &agentplanev1.OutputTotal{Bytes: bytes, Sha256: []byte(sum)}, Stderr: &agentplanev1.OutputTotal{Sha256: []byte(empty)}}
	}
	for _, c := range []struct {
		name string
		end  *agentplanev1.FollowEnd
		code int
		says string
	}{
		{"nothing was printed", &agentplanev1.FollowEnd{Totals: totals(0, "")}, exitOK, ""},
		{"bytes are missing", &agentplanev1.FollowEnd{Totals: totals(7, "")}, exitError, "0 bytes of stdout came, and 7 were recorded"},
		{"bytes are others", &agentplanev1.FollowEnd{Totals: totals(0, strings.Repeat("x", 32))}, exitError, "is not what was recorded"},
		{"it runs", &agentplanev1.FollowEnd{Incomplete: "not_ended"}, exitOK, "it runs, and may print more"},
		{"the rest has not come", &agentplanev1.FollowEnd{Incomplete: "not_received"}, exitUnavailable, "has not come from the host"},
		{"no keeper is reached", &agentplanev1.FollowEnd{Incomplete: "not_reachable"}, exitUnavailable, "no node that keeps"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, talk bytes.Buffer
			a := &app{stdout: &out, stderr: &talk}
			w := newWholeOutput(a, &outputFlags{})
			if err := w.take(&agentplanev1.FollowItem{End: c.end}); err != nil {
				t.Fatal(err)
			}
			err := w.verdict("ID", "web-1")
			code := exitOK
			if err != nil {
				code, _ = classify(err)
				talk.WriteString(err.Error())
			}
			if code != c.code || !strings.Contains(talk.String(), c.says) {
				t.Errorf("code %d, said %q; want %d and %q", code, &talk, c.code, c.says)
			}
		})
	}
}
