package e2e

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

const (
	// leastWithin is the least time for a confirmation that may be asked for.
	leastWithin = 10 * time.Second
	// partTimeout is that of a part that takes longer, and is to be ended.
	partTimeout = time.Second
)

// asked is what a command in parts was to do, and what operators asked for later.
type asked struct {
	id      string
	agent   string      // "" = all of them
	steps   []askedPart // one without a name is the only program
	undo    *askedPart  // nil when it has none
	within  time.Duration
	contact bool // an agent that reaches the cluster anew confirms it
	// brings are the SHA-256 of each file, by its path on the host, and of the standard
	// input, which the first program alone gets.
	brings   map[string]string
	unplaced bool // there is no such directory for one of its files
	keeps    bool // an operator is to confirm it
	vow      bool // it was asked for when nothing was broken any more

	// What follows changes while clients work; parts.mu guards it.
	canceled bool // somebody has asked for that, or may have
	settled  bool // nothing of it can be confirmed any more
	confirms []confirmation
}

type askedPart struct {
	name  string
	sleep time.Duration
	code  int  // with which it ends
	long  bool // it takes longer than it may
}

// confirmation is what a client was told of one, for the invocations that it had seen to wait.
type confirmation struct {
	outcome outcome
	waited  []string
}

// good says that every part is to succeed, and nothing is taken back.
func (a *asked) good() bool {
	return a.undo == nil && !a.unplaced && !slices.ContainsFunc(a.steps, func(p askedPart) bool { return p.long || p.code != 0 })
}

// parts submits commands in parts: with steps, an undo, files or an input; confirms some of
// them; and remembers what was asked.
type parts struct {
	s      *stream
	places string // the directory of files on hosts
	local  string // the directory of those that agentctl brings along
	known  []*client.Content

	mu    sync.Mutex // guards what follows
	asked map[string]*asked
}

func newParts(t *testing.T, s *stream, seed uint64) *parts {
	t.Helper()
	p := &parts{s: s, places: filepath.Join(s.f.Dir, "places"), local: filepath.Join(s.f.Dir, "local"), asked: make(map[string]*asked)}
	for _, dir := range []string{p.places, p.local} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	rng := rand.New(rand.NewPCG(seed, 0x636f6e74))
	for n := range 6 {
		size := 1 + rng.IntN(3000)
		if n == 0 {
			size = 100 << 10 // in several pieces
		}
		x, err := someContent(rng, fmt.Sprint("content-", n), size)
		if err != nil {
			t.Fatal(err)
		}
		p.known = append(p.known, x)
	}
	return p
}

func someContent(rng *rand.Rand, name string, size int) (*client.Content, error) {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return client.BytesContent(name, b)
}

// compose makes a command that chance chooses, for one agent or, without an undo, for all.
func (p *parts) compose(rng *rand.Rand) (*asked, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	a := &asked{id: id.String(), brings: make(map[string]string), agent: p.s.f.agents[rng.IntN(len(p.s.f.agents))].Name}
	many := 1
	if rng.IntN(3) > 0 {
		many = 2 + rng.IntN(3)
	}
	for n := range many {
		part := askedPart{name: fmt.Sprint("step-", n+1), sleep: time.Duration(rng.IntN(700)) * time.Millisecond}
		switch rng.IntN(30) {
		case 0, 1, 2:
			part.code = 1 + rng.IntN(90)
		case 3:
			part.sleep, part.long = time.Minute, true
		}
		a.steps = append(a.steps, part)
	}
	switch {
	case many == 1:
		a.steps[0].name = ""
	case rng.IntN(25) == 0 && p.s.f.seldom(rng):
		a.agent = ""
		return a, nil
	}
	if rng.IntN(3) > 0 {
		return a, nil
	}
	a.undo = &askedPart{sleep: time.Duration(rng.IntN(2000)) * time.Millisecond, code: rng.IntN(8) / 7}
	a.within = leastWithin + time.Duration(rng.IntN(4000))*time.Millisecond
	switch rng.IntN(3) {
	case 0:
		a.contact = true
	case 1:
		a.keeps, a.within = true, a.within+time.Duration(rng.IntN(10))*time.Second
	}
	return a, nil
}

// luggage is what a command brings along.
type luggage struct {
	files map[string]*client.Content // by their paths on the host
	input *client.Content            // nil when there is none
}

func (l luggage) contents() []*client.Content {
	all := slices.Collect(maps.Values(l.files))
	if l.input != nil {
		all = append(all, l.input)
	}
	return all
}

// bring gives a command files, and perhaps input: contents that others bring too, or new ones.
func (p *parts) bring(rng *rand.Rand, a *asked) (luggage, error) {
	l := luggage{files: make(map[string]*client.Content)}
	draw := func() (*client.Content, error) {
		if rng.IntN(3) == 0 {
			return someContent(rng, "content of "+a.id, 1+rng.IntN(3000))
		}
		return p.known[rng.IntN(len(p.known))], nil
	}
	for n := range 1 + rng.IntN(2) {
		path := filepath.Join(p.places, fmt.Sprint(a.id, "-", n))
		if rng.IntN(24) == 0 {
			path, a.unplaced = filepath.Join(p.places, "no-such-directory", path), true
		}
		x, err := draw()
		if err != nil {
			return l, err
		}
		l.files[path], a.brings[path] = x, x.Ref.Sum
	}
	if rng.IntN(2) == 0 {
		x, err := draw()
		if err != nil {
			return l, err
		}
		l.input, a.brings[foundInput] = x, x.Ref.Sum
	}
	return l, nil
}

// argv is the call of a part. Only the first program has an input, and an undo is not told where
// files are.
func (p *parts) argv(a *asked, part string, what askedPart) []string {
	args := []string{"--part", part, "--sleep", what.sleep.String(), "--exit", fmt.Sprint(what.code)}
	for _, path := range slices.Sorted(maps.Keys(a.brings)) {
		switch {
		case path != foundInput && part != partUndo:
			args = append(args, "--file", path)
		case path == foundInput && part == "1":
			args = append(args, "--stdin")
		}
	}
	return p.s.f.argv(args...)
}

// spec is the command as clients submit it.
func (p *parts) spec(a *asked, l luggage, now time.Time) *agentplanev1.CommandSpec {
	spec := &agentplanev1.CommandSpec{
		ClusterId: p.s.info.ClusterId, Incarnation: p.s.info.Incarnation, CommandId: a.id, Agents: []string{a.agent},
		RunTimeout: int64(time.Minute), KillGrace: int64(time.Second),
		NotAfter: now.Add(5 * time.Minute).UnixNano(), Delivery: agentplanev1.Delivery_DELIVERY_AT_MOST_ONCE, QueueOffline: true,
	}
	if a.agent == "" {
		spec.Agents, spec.Selector = nil, p.s.f.everyone()
	}
	for n, part := range a.steps {
		step := &agentplanev1.Step{Name: part.name, Argv: p.argv(a, fmt.Sprint(n+1), part), RunTimeout: int64(time.Minute)}
		if part.long {
			step.RunTimeout = int64(partTimeout)
		}
		if part.name == "" {
			spec.Argv, spec.RunTimeout = step.Argv, step.RunTimeout
			break
		}
		spec.Steps = append(spec.Steps, step)
	}
	if a.undo != nil {
		spec.Undo = &agentplanev1.UndoSpec{
			Argv: p.argv(a, partUndo, *a.undo), RunTimeout: int64(time.Minute), Within: int64(a.within), By: agentplanev1.ConfirmBy_CONFIRM_BY_OPERATOR,
		}
		if a.contact {
			spec.Undo.By = agentplanev1.ConfirmBy_CONFIRM_BY_CONTACT
		}
	}
	for _, path := range slices.Sorted(maps.Keys(l.files)) {
		spec.Files = append(spec.Files, &agentplanev1.File{Path: path, Content: l.files[path].Ref.Proto()})
	}
	if l.input != nil {
		spec.Stdin = l.input.Ref.Proto()
	}
	return spec
}

// flags are the parts as agentctl run takes them: lines for a shell.
func (p *parts) flags(a *asked) (flags []string) {
	line := func(argv []string) string { return "exec '" + strings.Join(argv, "' '") + "'" }
	if a.undo != nil {
		flags = append(flags, "--undo", line(p.argv(a, partUndo, *a.undo)), "--confirm-within", a.within.String())
		if a.contact {
			flags = append(flags, "--confirm-by", "contact")
		}
	}
	for n, part := range a.steps {
		argv := p.argv(a, fmt.Sprint(n+1), part)
		if part.name == "" {
			return append(append(flags, "--"), argv...)
		}
		flags = append(flags, "--step", part.name+"="+line(argv))
		if part.long {
			flags = append(flags, "--step-timeout", part.name+"="+partTimeout.String())
		}
	}
	return flags
}

// packed lays what a command brings along into files here, and answers what names them to
// agentctl run.
func (p *parts) packed(a *asked, l luggage) (flags []string, err error) {
	keep := func(name string, x *client.Content) (string, error) {
		r, err := x.Open()
		if err != nil {
			return "", err
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		if err != nil {
			return "", err
		}
		local := filepath.Join(p.local, name)
		return local, os.WriteFile(local, b, 0o600)
	}
	for _, path := range slices.Sorted(maps.Keys(l.files)) {
		local, err := keep(filepath.Base(path), l.files[path])
		if err != nil {
			return nil, err
		}
		flags = append(flags, "--file", local+":"+path)
	}
	if l.input != nil {
		local, err := keep(a.id+"-input", l.input)
		if err != nil {
			return nil, err
		}
		flags = append(flags, "--stdin="+local)
	}
	return flags, nil
}
