package execute

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	defaultTimeout     = 10 * time.Minute
	defaultKillGrace   = 10 * time.Second
	defaultOutputBytes = 10 << 20
	minOutputBytes     = 256 << 10
	maxOutputBytes     = 1 << 30
	maxSpecBytes       = 4 << 20

	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// Spec is what to run for one attempt.
type Spec struct {
	Attempt
	CommandID string
	AgentID   string
	Fence     uint64 // number of the claim

	// Argv or Script, not both. A script runs by its #! line, or by /bin/sh.
	Argv   []string
	Script []byte

	// Files are put in place before the program starts, and Stdin, the path of a file, is
	// what it reads; see place.go. Nothing when empty.
	Files []File
	Stdin string

	Env         []string      // NAME=value; nothing else is inherited, but PATH has a default
	Secrets     []string      // NAME=value, for the environment too; on disk until the program starts
	Dir         string        // absolute; "/" when empty
	TraceParent string        // for TRACEPARENT, when not empty
	Timeout     time.Duration // of the run; 10 min when 0
	KillGrace   time.Duration // between TERM and KILL; 10 s when 0
	OutputBytes int64         // kept on disk; 10 MiB when 0
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
	switch {
	case len(s.Argv) > 0 && len(s.Script) > 0:
		return fmt.Errorf("%w: %s has both argv and script", ErrInvalid, s.Attempt)
	case len(s.Script) == 0 && (len(s.Argv) == 0 || s.Argv[0] == ""):
		return fmt.Errorf("%w: %s has nothing to run", ErrInvalid, s.Attempt)
	case !filepath.IsAbs(s.Dir):
		return fmt.Errorf("%w: working directory %q is not absolute", ErrInvalid, s.Dir)
	case s.Timeout < 0 || s.KillGrace < 0:
		return fmt.Errorf("%w: timeout %s or kill grace %s is negative", ErrInvalid, s.Timeout, s.KillGrace)
	case s.OutputBytes < minOutputBytes || s.OutputBytes > maxOutputBytes:
		return fmt.Errorf("%w: output limit %d is not between %d and %d", ErrInvalid, s.OutputBytes, minOutputBytes, maxOutputBytes)
	}
	size := len(s.Script)
	for _, v := range s.Secrets {
		// Their values stand in no error.
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" || reserved(name) || strings.IndexByte(v, 0) >= 0 {
			return fmt.Errorf("%w: a secret is not NAME=value, or for a reserved name", ErrInvalid)
		}
		size += len(v)
	}
	for _, v := range slices.Concat(s.Argv, s.Env, []string{s.Dir, s.CommandID, s.AgentID, s.TraceParent}) {
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

// Names of the variables that every program gets. They are reserved: values for them in
// Spec.Env are passed over.
const (
	envCommand     = "AGENTPLANE_COMMAND_ID"
	envInvocation  = "AGENTPLANE_INVOCATION_ID"
	envAttempt     = "AGENTPLANE_ATTEMPT"
	envFence       = "AGENTPLANE_FENCE"
	envAgent       = "AGENTPLANE_AGENT_ID"
	envTraceParent = "TRACEPARENT"
)

// reserved says whether the variable is the agent's to set.
func reserved(name string) bool {
	switch name {
	case envCommand, envInvocation, envAttempt, envFence, envAgent, envTraceParent, "PATH":
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

// environ is the whole environment of the program.
func (s Spec) environ() []string {
	env := []string{"PATH=" + defaultPath}
	own := append(s.marks(), envCommand+"="+s.CommandID, envFence+"="+strconv.FormatUint(s.Fence, 10), envAgent+"="+s.AgentID)
	if s.TraceParent != "" {
		own = append(own, envTraceParent+"="+s.TraceParent)
	}
	for _, v := range s.Env {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case envCommand, envInvocation, envAttempt, envFence, envAgent, envTraceParent:
		case "PATH":
			env[0] = v
		default:
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
}

func (s Spec) file(bootID, script string) specFile {
	return specFile{
		Attempt: s.Attempt, BootID: bootID, Argv: toBytes(s.argv(script)), Env: toBytes(s.environ()), Dir: []byte(s.Dir),
		Timeout: s.Timeout, KillGrace: s.KillGrace, OutputBytes: s.OutputBytes, Files: s.placements(), Stdin: s.Stdin != "",
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
