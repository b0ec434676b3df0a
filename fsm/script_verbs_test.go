package fsm

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/reflect/protoreflect"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// A call is one command of a story: verb, words, and name=value arguments.
type call struct {
	s     *story
	t     *testing.T
	line  string
	verb  string
	words []string
	args  map[string]string
	used  map[string]bool
}

func parseLine(t *testing.T, line string) *call {
	c := &call{t: t, line: line, args: make(map[string]string), used: make(map[string]bool)}
	for i, f := range strings.Fields(line) {
		name, value, isArg := strings.Cut(f, "=")
		switch {
		case i == 0:
			c.verb = f
		case isArg:
			c.args[name] = value
		default:
			c.words = append(c.words, f)
		}
	}
	return c
}

// done fails the test when an argument was not looked at: it is misspelt.
func (c *call) done() {
	for name := range c.args {
		if !c.used[name] {
			c.t.Fatalf("%q has no argument %q", c.verb, name)
		}
	}
}

func (c *call) word(i int) string {
	if i >= len(c.words) {
		c.t.Fatalf("%q needs %d words", c.line, i+1)
	}
	return c.words[i]
}

func (c *call) text(name, otherwise string) string {
	c.used[name] = true
	if v, found := c.args[name]; found {
		return v
	}
	return otherwise
}

func (c *call) list(name string) []string {
	if v := c.text(name, ""); v != "" {
		return strings.Split(v, ",")
	}
	return nil
}

func (c *call) int(name string, otherwise uint64) uint64 {
	n, err := strconv.ParseUint(c.text(name, strconv.FormatUint(otherwise, 10)), 10, 64)
	if err != nil {
		c.t.Fatalf("%q: %v", c.line, err)
	}
	return n
}

func (c *call) duration(name string, otherwise time.Duration) time.Duration {
	v := c.text(name, otherwise.String())
	if v == "max" {
		return math.MaxInt64
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		c.t.Fatalf("%q: %v", c.line, err)
	}
	return d
}

// number reads an epoch or fence: a name given with as=, I.INDEX.ORDINAL, or a
// plain number.
func (c *call) number(name string, otherwise uint64) uint64 {
	v := c.text(name, "")
	if v == "" {
		return otherwise
	}
	if n, named := c.s.names[v]; named {
		return n
	}
	var inc, ordinal uint32
	var index uint64
	if n, err := fmt.Sscanf(v, "%d.%d.%d", &inc, &index, &ordinal); err == nil && n == 3 {
		return raftlogv1.Number(inc, index, int(ordinal))
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		c.t.Fatalf("%q: %q is neither a name nor a number", c.line, v)
	}
	return n
}

func (c *call) labels(name string) []*raftlogv1.Label {
	var labels []*raftlogv1.Label
	for _, l := range c.list(name) {
		k, v, _ := strings.Cut(l, ":")
		labels = append(labels, &raftlogv1.Label{Name: k, Value: v})
	}
	return labels
}

// commandID makes a UUIDv7 of the time and the name.
func commandID(at time.Time, name string) string {
	var id uuid.UUID
	sum := sha256.Sum256([]byte(name))
	copy(id[:], sum[:])
	ms := at.UnixMilli()
	for i := 5; i >= 0; i-- {
		id[i] = byte(ms)
		ms >>= 8
	}
	id[6], id[8] = id[6]&0x0f|0x70, id[8]&0x3f|0x80
	return id.String()
}

// invocation returns the row that "c1 web-1" names, and its id also when there is
// none.
func (c *call) invocation(i int) (string, *raftlogv1.Invocation) {
	id := c.s.id(c.word(i), 0)
	v := c.s.m.View()
	ordinal, err := strconv.ParseUint(strings.TrimPrefix(c.word(i+1), "#"), 10, 32)
	if err != nil {
		if a, found := v.Agent(c.word(i + 1)); found {
			ordinal = uint64(a.GetOrdinal())
		} else {
			for row := range v.Invocations(id) {
				if row.GetAgentId() == c.word(i+1) {
					ordinal = uint64(row.GetAgentOrdinal())
				}
			}
		}
	}
	row, _ := v.Invocation(InvocationID(id, uint32(ordinal)))
	return InvocationID(id, uint32(ordinal)), row
}

// aside returns the command that is no mutation, if the verb names one.
func aside(verb string) (func(*story, *call) []string, bool) {
	f, found := map[string]func(*story, *call) []string{
		"advance": func(s *story, c *call) []string {
			d, err := time.ParseDuration(c.word(0))
			if err != nil {
				s.t.Fatal(err)
			}
			s.now = s.now.Add(d)
			_, office := s.m.Published()
			s.apply(&raftlogv1.Entry{Format: raftlogv1.EntryFormat, LeaderEpoch: office.GetEpoch()})
			return []string{"now=" + s.clock(s.m.Now())}
		},
		"term": func(s *story, c *call) []string {
			n, err := strconv.ParseUint(c.word(0), 10, 64)
			if err != nil {
				s.t.Fatal(err)
			}
			s.term = n
			return nil
		},
		// A cluster of two nodes, a and b, with tokens for everything.
		"cluster": func(s *story, _ *call) []string {
			for _, l := range []string{
				"take-office a term=1", "init", "node-started a start=1",
				"token tok-b kind=node candidate=1", "register-node b token=tok-b", "node-started b start=1",
				"token tok kind=agent uses=100", "enroll-operator root role=admin",
			} {
				s.want(l)
			}
			return nil
		},
		// Agents with a ready session on node a.
		"agents": func(s *story, c *call) []string {
			for _, a := range c.words {
				s.want("enroll " + a + " token=tok")
				s.want("open-session " + a + " node=a slots=" + c.text("slots", "4"))
				s.want("ready " + a)
			}
			return nil
		},
		"mark": func(s *story, c *call) []string {
			_, s.marks[c.word(0)] = s.m.ViewAndWatch()
			return nil
		},
		"feed": func(s *story, c *call) []string {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			changes, err := s.m.Changes(ctx, s.marks[c.word(0)])
			if err != nil {
				return []string{s.readable(err.Error())}
			}
			var out []string
			for _, x := range changes {
				key := strconv.Quote(x.Key)
				verb := "put"
				if x.Row == nil {
					verb = "delete"
				}
				if i, ok := x.Row.(*raftlogv1.Invocation); ok {
					key = fmt.Sprintf("%q %s", i.GetId(), word(i.GetState()))
				}
				out = append(out, s.readable(fmt.Sprintf("%v %s %s %s", x.Cursor, verb, tableWord(x.Table), key)))
			}
			return out
		},
		"show": (*story).show,
	}[verb]
	return f, found
}

func tableWord(t Table) string {
	return (&raftlogv1.SnapshotRecord{}).ProtoReflect().Descriptor().Fields().ByNumber(protoreflect.FieldNumber(t)).TextName()
}

// want runs a command that has to be granted.
func (s *story) want(line string) {
	s.t.Helper()
	if out := s.block([]string{line}); !strings.HasPrefix(out[0], "OK") {
		s.t.Fatalf("%s: %s", line, out[0])
	}
}

func (s *story) clock(nanos int64) string {
	return "t+" + time.Duration(nanos-storyBegin.UnixNano()).String()
}

func (s *story) show(c *call) []string {
	v := s.m.View()
	row := func(m protoreflect.ProtoMessage, found bool) []string {
		if !found {
			return []string{"nothing"}
		}
		return []string{s.readable(s.print(m.ProtoReflect()))}
	}
	c.s = s
	switch what := c.word(0); what {
	case "cluster":
		return row(v.Cluster(), true)
	case "node":
		r, found := v.Node(c.word(1))
		return row(r, found)
	case "token":
		r, found := v.Token(s.id(c.word(1), 0))
		return row(r, found)
	case "uses":
		var out []string
		for u := range v.TokenUses(s.id(c.word(1), 0)) {
			out = append(out, s.readable(s.print(u.ProtoReflect())))
		}
		return out
	case "operator":
		r, found := v.Operator(c.word(1))
		return row(r, found)
	case "setting":
		r, found := v.Setting(c.word(1))
		return row(r, found)
	case "agent":
		r, found := v.Agent(c.word(1))
		return row(r, found)
	case "facts":
		r, found := v.Facts(c.word(1))
		return row(r, found)
	case "session":
		r, found := v.Session(c.word(1))
		return row(r, found)
	case "schedule":
		r, found := v.Schedule(c.word(1))
		return row(r, found)
	case "firings":
		var out []string
		r, _ := v.Schedule(c.word(1))
		for _, f := range r.GetFirings() {
			out = append(out, s.readable(s.print(f.ProtoReflect())))
		}
		return out
	case "command":
		r, found := v.Command(s.id(c.word(1), 0))
		return row(r, found)
	case "waves":
		return s.waves(c)
	case "invocation":
		_, r := c.invocation(1)
		return row(r, r != nil)
	case "why":
		_, r := c.invocation(1)
		var out []string
		for _, t := range r.GetTransitions() {
			out = append(out, s.readable(s.print(t.ProtoReflect())))
		}
		return out
	case "locks":
		var out []string
		for l := range v.Locks() {
			out = append(out, s.readable(s.print(l.ProtoReflect())))
			for p := range v.Places(l.GetName()) {
				out = append(out, "  "+s.readable(s.print(p.ProtoReflect())))
			}
		}
		return append(out, fmt.Sprintf("%d places", v.t.places.len()))
	case "blobs":
		var out []string
		for b := range v.Blobs() {
			out = append(out, s.readable(s.print(b.ProtoReflect())))
		}
		n, bytes, fits := v.RoomForBlob(1, c.int("max-bytes", 1000), 100)
		return append(out, fmt.Sprintf("%d blobs, %d bytes, room=%v", n, bytes, fits))
	case "work":
		a, _ := v.Agent(c.word(1))
		var out []string
		for i := range v.Work(a.GetOrdinal(), raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED) {
			out = append(out, s.readable(i.GetId()))
		}
		return out
	case "states":
		var out []string
		for i := range v.Invocations(s.id(c.word(1), 0)) {
			line := fmt.Sprintf("%s %s", i.GetAgentId(), word(i.GetState()))
			if i.GetReason() != "" {
				line += " (" + i.GetReason() + ")"
			}
			out = append(out, line)
		}
		return out
	default:
		s.t.Fatalf("cannot show %q", what)
		return nil
	}
}

// waves prints what became of a rollout: its waves, who is in them, what stops it; and
// its probes, which the story may then name.
func (s *story) waves(c *call) []string {
	v := s.m.View()
	id := s.id(c.word(1), 0)
	row, _ := v.Command(id)
	r := row.GetRollout()
	first := uint32(1)
	var out []string
	for n, w := range r.GetWaves() {
		line := fmt.Sprintf("%d (%s):", n+1, w.GetShare())
		for rank := first; rank <= w.GetEnd(); rank++ {
			for i := range v.Invocations(id) {
				if i.GetRank() == rank {
					line += fmt.Sprintf(" %s %s", i.GetAgentId(), word(i.GetState()))
				}
			}
		}
		first = w.GetEnd() + 1
		if w.GetReleasedAt() != 0 {
			line += " released " + s.clock(w.GetReleasedAt())
		}
		if w.GetSettledAt() != 0 {
			line += " settled " + s.clock(w.GetSettledAt())
		}
		if w.GetProbeId() != "" {
			name := fmt.Sprintf("%s-probe-%d", c.word(1), n+1)
			s.ids[name] = w.GetProbeId()
			line += fmt.Sprintf(" probed=%v by %s", w.GetProbed(), name)
		}
		out = append(out, line)
	}
	line := fmt.Sprintf("at wave %d, %d released, %d wait", row.GetWave(), row.GetReleased(), r.GetWaiting())
	if p := row.GetPause(); p != nil {
		line += fmt.Sprintf("; paused %s by %q: %s: %s", numberText(p.GetNumber()), p.GetBy(), p.GetReason(), p.GetDetail())
	}
	if a := row.GetAbort(); a != nil {
		line += fmt.Sprintf("; aborted by %q: %s: %s", a.GetBy(), a.GetReason(), a.GetDetail())
	}
	return append(out, s.readable(line))
}

// print prints a row in one line, its fields in the order of their numbers.
func (s *story) print(m protoreflect.Message) string {
	fields := m.Descriptor().Fields()
	order := make([]protoreflect.FieldDescriptor, 0, fields.Len())
	for i := range fields.Len() {
		order = append(order, fields.Get(i))
	}
	slices.SortFunc(order, func(a, b protoreflect.FieldDescriptor) int { return int(a.Number()) - int(b.Number()) })
	var out []string
	for _, f := range order {
		if !m.Has(f) || f.Name() == "digest" || f.Name() == "transitions" {
			continue
		}
		if !f.IsList() {
			out = append(out, f.TextName()+"="+s.value(f, m.Get(f)))
			continue
		}
		var items []string
		for i, l := 0, m.Get(f).List(); i < l.Len(); i++ {
			items = append(items, s.value(f, l.Get(i)))
		}
		out = append(out, f.TextName()+"=["+strings.Join(items, " ")+"]")
	}
	return strings.Join(out, " ")
}

func (s *story) value(f protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch name := f.TextName(); {
	case f.Message() != nil:
		return "{" + s.print(v.Message()) + "}"
	case f.Enum() != nil:
		full := string(f.Enum().Values().ByNumber(v.Enum()).Name())
		for p := full; ; {
			if _, ok := strings.CutPrefix(string(f.Enum().Values().ByNumber(0).Name()), p); ok {
				return strings.TrimPrefix(full, p)
			}
			p = p[:strings.LastIndexByte(p[:len(p)-1], '_')+1]
		}
	case f.Kind() == protoreflect.BytesKind && len(v.Bytes()) > 24:
		return fmt.Sprintf("(%d bytes)", len(v.Bytes()))
	case f.Kind() == protoreflect.BytesKind:
		return fmt.Sprintf("%q", v.Bytes())
	case f.Kind() == protoreflect.StringKind:
		return strconv.Quote(v.String())
	case name == "commands_floor" || name == "tokens_floor" || name == "schedules_floor":
		return s.clock(v.Int() * int64(time.Millisecond))
	case name == "run_timeout" || name == "kill_grace" || name == "soak" || name == "probe_timeout" || name == "ttl" || name == "splay" || name == "within":
		return time.Duration(v.Int()).String()
	case f.Kind() == protoreflect.Int64Kind:
		return s.clock(v.Int())
	case strings.HasSuffix(name, "epoch") || name == "fence":
		return numberText(v.Uint())
	default:
		return v.String()
	}
}
