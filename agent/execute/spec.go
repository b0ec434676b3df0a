package execute

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agentplane/agentplane/proto/blob"
)

const (
	defaultTimeout     = 10 * time.Minute
	defaultKillGrace   = 10 * time.Second
	defaultOutputBytes = 10 << 20
	minOutputBytes     = 256 << 10
	maxOutputBytes     = 1 << 30
	maxSpecBytes       = 4 << 20

	// MaxSteps bounds the steps of an attempt. What runs after all of them, whichever ended
	// the attempt, has the number after the last.
	MaxSteps         = 16
	maxStepNumber    = MaxSteps + 1
	maxStepNameBytes = 64

	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// Spec is what to run for one attempt.
type Spec struct {
	Attempt
	CommandID string
	AgentID   string
	Fence     uint64 // number of the claim

	// Argv, Script or Steps, one of them. A script runs by its #! line, or by /bin/sh; steps
	// run one after the other, each when the one before has succeeded.
	Argv   []string
	Script []byte
	Steps  []Step
	// Undo takes back what they did, unless it is confirmed; nil when nothing does.
	Undo *Undo

	// Files are put in place before the program starts, or the first step, and Stdin, the
	// path of a file, is what that reads; see place.go. Nothing when empty. Input is what must
	// lie at Stdin; when it is zero that is not looked at.
	Files []File
	Stdin string
	Input blob.Ref

	Env         []string      // NAME=value; nothing else is inherited, but PATH has a default
	Secrets     []string      // NAME=value, for the environment too; on disk until the program starts
	Dir         string        // absolute; "/" when empty
	TraceParent string        // for TRACEPARENT, when not empty
	Timeout     time.Duration // of the run, or of each step that names none; 10 min when 0
	KillGrace   time.Duration // between TERM and KILL; 10 s when 0
	OutputBytes int64         // kept on disk, of all steps together; 10 MiB when 0

	number uint32 // of the step that this is the spec of; 0: there are none
	name   string // its
	cause  string // of an undo: why it runs
}

// A Step is one program of several.
type Step struct {
	Name    string
	Argv    []string // or
	Script  []byte
	Timeout time.Duration // the spec's when 0
}

func (s Spec) withDefaults() Spec {
	s.Dir = cmp.Or(s.Dir, "/")
	s.Timeout = cmp.Or(s.Timeout, defaultTimeout)
	s.KillGrace = cmp.Or(s.KillGrace, defaultKillGrace)
	s.OutputBytes = cmp.Or(s.OutputBytes, defaultOutputBytes)
	return s
}

// Validate says whether the spec, with its defaults, can be run.
func (s Spec) Validate() error {
	s = s.withDefaults()
	if err := s.Attempt.Validate(); err != nil {
		return err
	}
	if err := s.validatePrograms(); err != nil {
		return err
	}
	switch {
	case !filepath.IsAbs(s.Dir):
		return fmt.Errorf("%w: working directory %q is not absolute", ErrInvalid, s.Dir)
	case s.Timeout < 0 || s.KillGrace < 0:
		return fmt.Errorf("%w: timeout %s or kill grace %s is negative", ErrInvalid, s.Timeout, s.KillGrace)
	case s.OutputBytes < minOutputBytes || s.OutputBytes > maxOutputBytes:
		return fmt.Errorf("%w: output limit %d is not between %d and %d", ErrInvalid, s.OutputBytes, minOutputBytes, maxOutputBytes)
	}
	size := len(s.Script)
	texts := slices.Concat(s.Argv, s.Env, []string{s.Dir, s.CommandID, s.AgentID, s.TraceParent})
	for _, step := range s.Steps {
		size += len(step.Script)
		texts = append(append(texts, step.Name), step.Argv...)
	}
	if s.Undo != nil {
		size += len(s.Undo.Script)
		texts = append(texts, s.Undo.Argv...)
	}
	for _, v := range s.Secrets {
		// Their values stand in no error.
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" || reserved(name) || strings.IndexByte(v, 0) >= 0 {
			return fmt.Errorf("%w: a secret is not NAME=value, or for a reserved name", ErrInvalid)
		}
		size += len(v)
	}
	for _, v := range texts {
		if strings.IndexByte(v, 0) >= 0 {
			return fmt.Errorf("%w: %.40q has a zero byte", ErrInvalid, v)
		}
		size += len(v)
	}
	if size > maxSpecBytes {
		return fmt.Errorf("%w: %s has %d bytes, at most %d are allowed", ErrInvalid, s.Attempt, size, maxSpecBytes)
	}
	if err := s.checkFiles(); err != nil {
		return err
	}
	for _, v := range s.Env {
		if strings.IndexByte(v, '=') < 1 {
			return fmt.Errorf("%w: environment entry %.40q is not NAME=value", ErrInvalid, v)
		}
	}
	return nil
}

// validatePrograms says whether there is something to run, said in one way.
func (s Spec) validatePrograms() error {
	if u := s.Undo; u != nil {
		what := fmt.Sprintf("the undo of %s", s.Attempt)
		if u.Timeout < 0 || u.Within <= 0 {
			return fmt.Errorf("%w: %s has the timeout %s and waits %s for a confirmation: below zero, or not above it", ErrInvalid, what, u.Timeout, u.Within)
		}
		if err := validateProgram(what, u.Argv, u.Script); err != nil {
			return err
		}
	}
	if len(s.Steps) == 0 {
		return validateProgram(s.Attempt.String(), s.Argv, s.Script)
	}
	switch {
	case len(s.Argv) > 0 || len(s.Script) > 0:
		return fmt.Errorf("%w: %s has both steps and a program", ErrInvalid, s.Attempt)
	case len(s.Steps) > MaxSteps:
		return fmt.Errorf("%w: %s has %d steps, at most %d are allowed", ErrInvalid, s.Attempt, len(s.Steps), MaxSteps)
	}
	for n, step := range s.Steps {
		what := fmt.Sprintf("step %d of %s", n+1, s.Attempt)
		switch {
		case len(step.Name) > maxStepNameBytes:
			return fmt.Errorf("%w: the name of %s has %d bytes, at most %d are allowed", ErrInvalid, what, len(step.Name), maxStepNameBytes)
		case step.Timeout < 0:
			return fmt.Errorf("%w: the timeout %s of %s is negative", ErrInvalid, step.Timeout, what)
		}
		if err := validateProgram(what, step.Argv, step.Script); err != nil {
			return err
		}
	}
	return nil
}

func validateProgram(what string, argv []string, script []byte) error {
	switch {
	case len(argv) > 0 && len(script) > 0:
		return fmt.Errorf("%w: %s has both argv and script", ErrInvalid, what)
	case len(script) == 0 && (len(argv) == 0 || argv[0] == ""):
		return fmt.Errorf("%w: %s has nothing to run", ErrInvalid, what)
	}
	return nil
}

// Names of the variables that every program gets. They are reserved: values for them in
// Spec.Env are passed over.
const (
	envCommand     = "AGENTPLANE_COMMAND_ID"
	envInvocation  = "AGENTPLANE_INVOCATION_ID"
	envAttempt     = "AGENTPLANE_ATTEMPT"
	envFence       = "AGENTPLANE_FENCE"
	envAgent       = "AGENTPLANE_AGENT_ID"
	envTraceParent = "TRACEPARENT"
	// The file that announces a reboot, when the program makes it.
	envReboot = "AGENTPLANE_REBOOT"
	// Of programs that are steps.
	envStep     = "AGENTPLANE_STEP"
	envStepName = "AGENTPLANE_STEP_NAME"
	// Of an undo: why it runs.
	envUndo = "AGENTPLANE_UNDO"
)

// reserved says whether the variable is the agent's to set.
func reserved(name string) bool {
	switch name {
	case envCommand, envInvocation, envAttempt, envFence, envAgent, envTraceParent, envReboot, envStep, envStepName, envUndo, "PATH":
		return true
	}
	return false
}

// marks are the variables by which a process can be recognized as this attempt's.
func (a Attempt) marks() []string {
	return []string{
		envInvocation + "=" + a.InvocationID,
		envAttempt + "=" + strconv.FormatUint(uint64(a.Number), 10),
	}
}

// environ is the whole environment of the program that runs in d.
func (s Spec) environ(d directory) []string {
	env := []string{"PATH=" + defaultPath}
	own := append(s.marks(), envCommand+"="+s.CommandID, envFence+"="+strconv.FormatUint(s.Fence, 10), envAgent+"="+s.AgentID, envReboot+"="+d.path(fileReboot))
	if s.number > 0 {
		own = append(own, envStep+"="+strconv.FormatUint(uint64(s.number), 10), envStepName+"="+s.name)
	}
	if s.cause != "" {
		own = append(own, envUndo+"="+s.cause)
	}
	if s.TraceParent != "" {
		own = append(own, envTraceParent+"="+s.TraceParent)
	}
	for _, v := range s.Env {
		name, _, _ := strings.Cut(v, "=")
		switch {
		case name == "PATH":
			env[0] = v
		case !reserved(name):
			env = append(env, v)
		}
	}
	return append(env, own...)
}

// argv is what to exec; script is where the script lies.
func (s Spec) argv(script string) []string {
	switch {
	case len(s.Script) == 0:
		return s.Argv
	case strings.HasPrefix(string(s.Script[:min(2, len(s.Script))]), "#!"):
		return []string{script}
	default:
		return []string{"/bin/sh", script}
	}
}

// specFile is a Spec as the supervisor reads it. Bytes, because arguments need not be
// UTF-8.
type specFile struct {
	Attempt     Attempt
	BootID      string // of the kernel under which agentd asked
	Argv        [][]byte
	Env         [][]byte
	Dir         []byte
	Timeout     time.Duration
	KillGrace   time.Duration
	OutputBytes int64
	Files       []placement // whose contents lie in the directory, by their number
	Stdin       bool        // likewise
	Input       blob.Ref    // what it must be, if it has a name
}

func (s Spec) file(bootID string, d directory) specFile {
	return specFile{
		Attempt: s.Attempt, BootID: bootID, Argv: toBytes(s.argv(d.path(fileScript))), Env: toBytes(s.environ(d)), Dir: []byte(s.Dir),
		Timeout: s.Timeout, KillGrace: s.KillGrace, OutputBytes: s.OutputBytes, Files: s.placements(), Stdin: s.Stdin != "", Input: s.Input,
	}
}

func toBytes(in []string) [][]byte {
	out := make([][]byte, len(in))
	for i, v := range in {
		out[i] = []byte(v)
	}
	return out
}

func toStrings(in [][]byte) []string {
	out := make([]string, len(in))
	for i, v := range in {
		out[i] = string(v)
	}
	return out
}
