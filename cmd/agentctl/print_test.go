package main

import (
	"bytes"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"pgregory.net/rapid"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

var testTime = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func testCommand() *agentplanev1.Command {
	at := testTime.UnixNano()
	return &agentplanev1.Command{
		Id: "c1", State: agentplanev1.CommandState_COMMAND_STATE_DONE, Summary: "uptime", Selector: "all", SubmittedBy: "admin",
		SubmittedAt: at, SubmittedIndex: 1 << 60, NotAfter: at, FinishedAt: 0, Targets: 3,
		Counts: map[string]uint32{"succeeded": 1, "failed": 1, "lost": 1},
		Invocations: []*agentplanev1.Invocation{
			{
				Id: "i1", CommandId: "c1", AgentId: "a1", AgentName: "web-1", Attempt: 1, Fence: 1<<52 | 7<<8,
				State: agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED, EndedAt: at, StartedAt: at + 1,
				Stdout: &agentplanev1.Output{Head: []byte("a <b>\n\x1b[31mred\xff"), Tail: []byte("end"), TotalBytes: 1000},
			},
			{
				Id: "i2", CommandId: "c1", AgentId: "a2", AgentName: "web-2", Attempt: 1,
				State: agentplanev1.AttemptState_ATTEMPT_STATE_FAILED, ExitCode: 3, EndedAt: at,
				Stderr: &agentplanev1.Output{Head: []byte("bad"), TotalBytes: 3},
			},
			{
				Id: "i3", CommandId: "c1", AgentId: "a3", AgentName: "web\t3\x1b", Attempt: 2,
				State: agentplanev1.AttemptState_ATTEMPT_STATE_LOST, Reason: "no_contact",
			},
			{
				Id: "i4", CommandId: "c1", AgentId: "a4", AgentName: "web-4", Attempt: 1,
				State: agentplanev1.AttemptState_ATTEMPT_STATE_FAILED, Signal: 9, CancelTooLate: true,
			},
		},
	}
}

func testAgents() []*agentplanev1.Agent {
	return []*agentplanev1.Agent{
		{
			Id: "a1", Name: "web-1", Health: "ONLINE", Labels: map[string]string{"tier": "web", "env": "prod"},
			Facts: map[string]string{"os": "linux"}, Node: "n1", SessionEpoch: 1<<52 | 5<<8, Since: testTime.Add(-90 * time.Minute).UnixNano(),
			Running: 1, Queued: 2,
		},
		{Id: "a2", Name: "web-2", Health: "QUARANTINED", HealthReason: "clone", Since: testTime.Add(-72 * time.Hour).UnixNano()},
	}
}

func TestOutputIsStable(t *testing.T) {
	for _, format := range formats {
		t.Run(format, func(t *testing.T) {
			var out bytes.Buffer
			a := &app{stdout: &out, stderr: io.Discard, now: func() time.Time { return testTime }}
			a.flags.output = format
			c := testCommand()
			var p client.Progress
			p.Take(&agentplanev1.WatchCommandResponse{Command: c, Invocations: c.Invocations, Snapshot: true})
			if err := a.printResults(p.Command()); err != nil {
				t.Fatal(err)
			}
			out.WriteString("-----\n")
			if err := printList(a, testAgents(), a.agentColumns()); err != nil {
				t.Fatal(err)
			}
			out.WriteString("-----\n")
			if err := printList(a, []*agentplanev1.Command{c}, a.commandColumns()); err != nil {
				t.Fatal(err)
			}
			out.WriteString("-----\n")
			if err := printList[*agentplanev1.Agent](a, nil, a.agentColumns()); err != nil {
				t.Fatal(err)
			}
			golden(t, format+".golden", out.Bytes())
		})
	}
}

func TestCopyInPartsRemovesNobodyWhoComesLater(t *testing.T) {
	var out bytes.Buffer
	a := &app{stdout: &out, stderr: io.Discard, now: func() time.Time { return testTime }}
	a.flags.output = "jsonl"
	c := &changes{app: a, seen: map[string]string{}}
	agents := testAgents()
	third := &agentplanev1.Agent{Id: "a3", Name: "web-3"}
	for n, step := range []struct {
		response *agentplanev1.WatchAgentsResponse
		want     int // lines
	}{
		{&agentplanev1.WatchAgentsResponse{Agents: agents, Index: 5, Snapshot: true}, 2},
		{&agentplanev1.WatchAgentsResponse{Agents: []*agentplanev1.Agent{third}, Index: 5}, 1},
		// Another node's copy, in two parts; a2 has gone.
		{&agentplanev1.WatchAgentsResponse{Agents: agents[:1], Index: 9, Snapshot: true}, 0},
		{&agentplanev1.WatchAgentsResponse{Agents: []*agentplanev1.Agent{third}, Index: 9}, 0},
		{&agentplanev1.WatchAgentsResponse{Index: 10}, 1},
		{&agentplanev1.WatchAgentsResponse{RemovedIds: []string{"a3"}, Index: 11}, 1},
	} {
		out.Reset()
		if err := c.take(step.response); err != nil {
			t.Fatal(err)
		}
		if got := bytes.Count(out.Bytes(), []byte("\n")); got != step.want {
			t.Errorf("step %d: %d lines, want %d:\n%s", n, got, step.want, &out)
		}
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{"90s": 90 * time.Second, "7d": 7 * 24 * time.Hour, "1.5d": 36 * time.Hour} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("parseDuration(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, bad := range []string{"", "5", "d", "1w", "1e9d", "9999999999d"} {
		if got, err := parseDuration(bad); err == nil {
			t.Errorf("parseDuration(%q) = %v, want an error", bad, got)
		}
	}
	for d, want := range map[time.Duration]string{5 * time.Minute: "5m", time.Hour: "1h", 10 * time.Second: "10s", 90 * time.Minute: "1h30m"} {
		if got := shortDuration(d); got != want {
			t.Errorf("shortDuration(%v) = %q, want %q", d, got, want)
		}
	}
}

// Nothing that an agent says moves the cursor of a terminal, or ends its line.
func TestPrintableHoldsNoControlCharacter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
		if out := printable(in); strings.ContainsFunc(out, unicode.IsControl) || !utf8.ValidString(out) {
			t.Fatalf("printable(%q) = %q", in, out)
		}
		for _, r := range printableText(in) {
			if unicode.IsControl(r) && r != '\n' && r != '\t' {
				t.Fatalf("printableText(%q) has %q", in, r)
			}
		}
	})
}

// The same line with the same id is the same bytes; any other line is others.
func TestEnvelopeIsOfTheLineAndTheID(t *testing.T) {
	envelope := func(argv []string, id string) string {
		f := runFlags{sel: selectorFlags{on: "all"}, timeout: time.Minute, ttl: time.Minute, class: "idempotent"}
		c, err := f.command(nil, argv, false, false)
		if err != nil {
			t.Fatal(err)
		}
		c.ID = id
		b, err := c.Envelope("c", &agentplanev1.Incarnation{Number: 1, Id: []byte("x")})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	one, two := "01890000-0000-7000-8000-000000000001", "01890000-0000-7000-8000-000000000002"
	first := envelope([]string{"a", "b"}, one)
	if again := envelope([]string{"a", "b"}, one); again != first {
		t.Error("the same line with the same id gave other bytes later")
	}
	if envelope([]string{"a b"}, one) == first || envelope([]string{"a", "b"}, two) == first {
		t.Error("another line or another id gave the same bytes")
	}
}

func TestHintWhenTheNodeBreaksOff(t *testing.T) {
	err := hintNode(&client.Error{Code: codes.Unavailable, Message: "error reading from server: EOF", OutcomeUnknown: true}, "agentctl cluster init --data-dir /d")
	if code, hint := classify(err); code != exitUnknown || !strings.Contains(hint, "look at its log") || !strings.Contains(hint, "agentctl cluster init --data-dir /d again") {
		t.Errorf("exit %d, hint %q", code, hint)
	}
	refused := &client.Error{Code: codes.FailedPrecondition, Message: "no", Hint: "do"}
	if _, hint := classify(hintNode(refused, "x")); hint != "do" {
		t.Errorf("a refusal's hint is %q", hint)
	}
}

func TestStreamPrintsItsHeadOnceAndKeepsItsColumns(t *testing.T) {
	s := stream[[2]string]{columns: []column[[2]string]{
		{"NAME", false, func(r [2]string) string { return r[0] }},
		{"HIDDEN", true, func([2]string) string { return "x" }},
		{"STATE", false, func(r [2]string) string { return r[1] }},
	}}
	var b strings.Builder
	for _, rows := range [][][2]string{{{"a", "UP"}, {"long-name", "DOWN"}}, {{"b", ""}}, {{"longer-name", "UP"}}, {{"c", "UP"}}} {
		s.write(&b, rows)
	}
	want := `NAME       STATE
a          UP
long-name  DOWN
b          -
longer-name  UP
c            UP
`
	if b.String() != want {
		t.Errorf("printed\n%swant\n%s", b.String(), want)
	}
}

func TestEndingNamesWhatIsMissing(t *testing.T) {
	for want, i := range map[string]*agentplanev1.Invocation{
		"FAILED (signal 9)": {State: agentplanev1.AttemptState_ATTEMPT_STATE_FAILED, Signal: 9, Reason: "signal"},
		"FAILED (exit 2)":   {State: agentplanev1.AttemptState_ATTEMPT_STATE_FAILED, ExitCode: 2, Reason: "exit"},
		`FAILED (exit 127, not_found: program "x" is not there)`: {
			State: agentplanev1.AttemptState_ATTEMPT_STATE_FAILED, ExitCode: 127, Reason: "not_found", Detail: `program "x" is not there`,
		},
	} {
		if got := ending(i); got != want {
			t.Errorf("ending = %q, want %q", got, want)
		}
	}
}

func TestReadmittedSaysWhatFollows(t *testing.T) {
	agent := func(health, reason string) *agentplanev1.Agent {
		return &agentplanev1.Agent{Health: health, HealthReason: reason}
	}
	for want, c := range map[string][2]*agentplanev1.Agent{
		"agent a was not quarantined: it is ONLINE": {agent("ONLINE", ""), agent("ONLINE", "")},
		"start agentd with a new token":             {agent("QUARANTINED", "clone"), agent("QUARANTINED", "clone")},
		"agent a is readmitted; it begins":          {agent("QUARANTINED", "journal_behind"), agent("RECONNECTING", "")},
	} {
		if got := readmitted("a", c[0], c[1]); !strings.Contains(got, want) {
			t.Errorf("readmitted = %q, want %q", got, want)
		}
	}
}
