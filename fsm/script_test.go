package fsm

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

var update = flag.Bool("update", false, "write what the stories of testdata answer")

// TestStories plays the stories of testdata. A story is made of blocks: commands,
// a line "----", what they answered, an empty line. A command is one entry with
// one mutation; one that begins with "+" joins the entry of the command before it.
// Everything is applied by two replicas, the second of which gets the sealed
// bytes; after each entry their hashes must agree and the tables be sound.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			t.Parallel()
			have, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := newStory(t).play(have)
			if *update {
				if err := os.WriteFile(f, got, 0o644); err != nil {
					t.Fatal(err)
				}
			} else if diff := cmp.Diff(strings.Split(string(have), "\n"), strings.Split(string(got), "\n")); diff != "" {
				t.Errorf("%s tells another story (-want +got); if it is the better one, run with -update:\n%s", f, diff)
			}
		})
	}
}

// storyBegin is the time at which every story begins.
var storyBegin = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

type story struct {
	t       *testing.T
	m, twin *Machine
	index   uint64
	term    uint64
	now     time.Time
	streams int
	names   map[string]uint64 // numbers that the story has named with as=
	ids     map[string]string // ids of commands by their names in the story
	marks   map[string]Cursor // places in the feed
}

func newStory(t *testing.T) *story {
	return &story{
		t: t, m: New(Options{}), twin: New(Options{}), term: 1, now: storyBegin,
		names: make(map[string]uint64), ids: make(map[string]string), marks: make(map[string]Cursor),
	}
}

// play returns the story with what its commands answer now.
func (s *story) play(text []byte) []byte {
	var out bytes.Buffer
	var block []string
	answering := false
	flush := func() {
		if answering {
			for _, line := range s.block(block) {
				fmt.Fprintln(&out, line)
			}
		}
		block, answering = nil, false
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		switch {
		case line == "----":
			answering = true
			fmt.Fprintln(&out, line)
		case line == "":
			flush()
			fmt.Fprintln(&out)
		case answering: // what it answered before
		default:
			fmt.Fprintln(&out, line)
			if !strings.HasPrefix(line, "#") {
				block = append(block, line)
			}
		}
	}
	flush()
	return out.Bytes()
}

// block runs the commands of one block and returns what they print.
func (s *story) block(lines []string) []string {
	var out []string
	for len(lines) > 0 {
		n := 1
		for n < len(lines) && strings.HasPrefix(lines[n], "+") {
			n++
		}
		out = append(out, s.entry(lines[:n])...)
		lines = lines[n:]
	}
	return out
}

// entry runs commands that share an entry, or one that is none.
func (s *story) entry(lines []string) []string {
	first := parseLine(s.t, lines[0])
	if f, ok := aside(first.verb); ok {
		return f(s, first)
	}
	e := &raftlogv1.Entry{Format: raftlogv1.EntryFormat}
	var calls []*call
	for _, l := range lines {
		c := parseLine(s.t, strings.TrimSpace(strings.TrimPrefix(l, "+")))
		build, ok := verbs[c.verb]
		if !ok {
			s.t.Fatalf("no command %q in %q", c.verb, l)
		}
		c.s = s
		e.Mutations = append(e.Mutations, build(c))
		calls = append(calls, c)
	}
	if !takesOffice(&raftlogv1.Entry{Mutations: e.Mutations}) {
		_, office := s.m.Published()
		e.LeaderEpoch = calls[0].number("leader", office.GetEpoch())
	} else {
		e.LeaderEpoch = calls[0].number("leader", 0)
	}
	var out []string
	for i, o := range s.apply(e) {
		if name := calls[i].text("as", ""); name != "" {
			s.names[name] = o.GetNumber()
		}
		calls[i].done()
		out = append(out, s.readable(outcomeLine(o)))
	}
	return out
}

// apply gives an entry to both replicas and compares them.
func (s *story) apply(e *raftlogv1.Entry) []*raftlogv1.Outcome {
	s.t.Helper()
	s.index++
	e.Now = s.now.UnixNano()
	sealed, err := raftlogv1.Seal(e)
	if err != nil {
		s.t.Fatal(err)
	}
	opened, err := raftlogv1.Unseal(sealed)
	if err != nil {
		s.t.Fatal(err)
	}
	before := s.m.View()
	outcomes := s.m.Apply(s.index, s.term, e)
	again := s.twin.Apply(s.index, s.term, opened)
	for i, o := range outcomes {
		if outcomeLine(o) != outcomeLine(again[i]) || o.GetIndex() != s.index {
			s.t.Errorf("entry %d: replicas answered %v and %v", s.index, o, again[i])
		}
	}
	if s.m.View().Hash() != s.twin.View().Hash() {
		s.t.Errorf("entry %d: the replicas' hashes differ", s.index)
	}
	if err := check(s.m); err != nil {
		s.t.Errorf("entry %d: %v", s.index, err)
	}
	if err := checkRefusals(before, s.m.View(), outcomes); err != nil {
		s.t.Errorf("entry %d: %v", s.index, err)
	}
	return outcomes
}

// checkRefusals says whether an entry of refusals alone has changed anything but
// index and time. Two refusals put an agent into quarantine, and say so.
func checkRefusals(before, after *View, outcomes []*raftlogv1.Outcome) error {
	for _, o := range outcomes {
		if o.GetCode() == raftlogv1.Code_CODE_OK || o.GetReason() == "clone" || o.GetReason() == "journal_behind" {
			return nil
		}
	}
	if contentHash(before) != contentHash(after) {
		return fmt.Errorf("only refusals (%v), and yet the state has changed", outcomes)
	}
	return nil
}

// contentHash is the hash of the state but for its index and time.
func contentHash(v *View) [32]byte {
	t := v.t.published()
	t.cluster = clone(t.cluster)
	t.cluster.Index, t.cluster.Now = 0, 0
	return (&View{t: t}).Hash()
}

// outcomeLine prints an outcome but for its index.
func outcomeLine(o *raftlogv1.Outcome) string {
	b := new(strings.Builder)
	b.WriteString(strings.TrimPrefix(o.GetCode().String(), "CODE_"))
	if o.GetReason() != "" {
		b.WriteString(" " + o.GetReason())
	}
	if o.GetNumber() != 0 {
		b.WriteString(" number=" + numberText(o.GetNumber()))
	}
	if o.GetRepeated() {
		b.WriteString(" repeated")
	}
	if o.GetCount() != 0 {
		fmt.Fprintf(b, " count=%d", o.GetCount())
	}
	if o.GetRetryAfterMs() != 0 {
		fmt.Fprintf(b, " retry-after=%dms", o.GetRetryAfterMs())
	}
	if o.GetDetail() != "" {
		b.WriteString(": " + o.GetDetail())
	}
	return b.String()
}

// numberText prints an epoch or fence as INCARNATION.INDEX.ORDINAL, an index as it
// is.
func numberText(n uint64) string {
	if n < 1<<8 {
		return strconv.FormatUint(n, 10)
	}
	return fmt.Sprintf("%d.%d.%d", n>>52, n<<12>>20, n&0xff)
}

// readable puts the story's names in the place of ids and numbers.
func (s *story) readable(line string) string {
	for name, id := range s.ids {
		line = strings.ReplaceAll(line, id, name)
	}
	words := strings.FieldsFunc(line, func(r rune) bool { return r < '0' || r > '9' })
	for _, w := range words {
		if n, err := strconv.ParseUint(w, 10, 64); err == nil && n >= 1<<52 {
			line = strings.ReplaceAll(line, w, numberText(n))
		}
	}
	return line
}

// id returns the id of the command with the story's name, made now unless the
// story said when.
func (s *story) id(name string, made time.Duration) string {
	if _, found := s.ids[name]; !found {
		s.ids[name] = commandID(s.now.Add(made), name)
	}
	return s.ids[name]
}
