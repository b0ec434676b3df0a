package operator

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/blob"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Bounds of a command.
const (
	// MaxEnvelopeBytes leaves room for the list of targets in the same mutation.
	MaxEnvelopeBytes = 192 << 10
	// MaxArgs bounds the arguments of a program, MaxArgBytes one of them (the
	// kernel's bound for one string).
	MaxArgs     = 4096
	MaxArgBytes = 128<<10 - 1
	// MaxRunTimeout, MaxKillGrace and MaxTTL bound times: records of a command are
	// kept until a day after its end.
	MaxRunTimeout = 7 * 24 * time.Hour
	MaxKillGrace  = time.Hour
	MaxTTL        = 30 * 24 * time.Hour

	defaultRunTimeout = 10 * time.Minute
	defaultKillGrace  = 10 * time.Second
	maxSignatures     = 16
	maxKeyIDBytes     = 256
	maxSignatureBytes = 1024
	maxTraceBytes     = 128
	summaryBytes      = 120
)

// submission is a command as it was read from its bytes.
type submission struct {
	envelope []byte
	digest   []byte
	spec     *agentplanev1.CommandSpec
}

// decodeSubmission reads an envelope strictly: what it does not know it refuses,
// since those who run it may know it. What it answers has not been checked yet.
func decodeSubmission(envelope []byte) (*submission, error) {
	switch {
	case len(envelope) == 0:
		return nil, errors.New("the envelope is empty")
	case len(envelope) > MaxEnvelopeBytes:
		return nil, fmt.Errorf("the envelope has %d bytes, at most %d are allowed: let the agents fetch what is large", len(envelope), MaxEnvelopeBytes)
	}
	var e agentplanev1.Envelope
	if err := decodeStrictly("envelope", envelope, &e); err != nil {
		return nil, err
	}
	if len(e.GetSpec()) == 0 {
		return nil, errors.New("the envelope holds no spec")
	}
	if len(e.GetSignatures()) > maxSignatures {
		return nil, fmt.Errorf("%d signatures are above the maximum %d", len(e.GetSignatures()), maxSignatures)
	}
	for i, s := range e.GetSignatures() {
		if len(s.GetKeyId()) > maxKeyIDBytes || len(s.GetSignature()) > maxSignatureBytes {
			return nil, fmt.Errorf("signature %d: key id and signature may have %d and %d bytes", i+1, maxKeyIDBytes, maxSignatureBytes)
		}
	}
	spec := new(agentplanev1.CommandSpec)
	if err := decodeStrictly("spec", e.GetSpec(), spec); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(envelope)
	return &submission{envelope: envelope, digest: sum[:], spec: spec}, nil
}

func decodeStrictly(what string, b []byte, into proto.Message) error {
	if err := proto.Unmarshal(b, into); err != nil {
		return fmt.Errorf("the %s cannot be read: %w", what, err)
	}
	if in := raftlogv1.Unknown(into); in != "" {
		return fmt.Errorf("the %s holds a field of %s that this node does not know: upgrade the nodes, or submit with an older agentctl", what, in.Name())
	}
	return nil
}

// problem is what is wrong with a spec.
type problem struct{ reason, text string }

// problemf writes durations as people type them.
func problemf(reason, format string, args ...any) *problem {
	for n, arg := range args {
		if d, ok := arg.(time.Duration); ok {
			args[n] = durationText(d)
		}
	}
	return &problem{reason, fmt.Sprintf(format, args...)}
}

// durationText prints 7d, 2h and 5m, not 168h0m0s, 2h0m0s and 5m0s.
func durationText(d time.Duration) string {
	const day = 24 * time.Hour
	s := d.String()
	switch {
	case d != 0 && d%day == 0:
		return fmt.Sprintf("%dd", d/day)
	case strings.HasSuffix(s, "h0m0s"):
		return strings.TrimSuffix(s, "0m0s")
	case strings.HasSuffix(s, "m0s"):
		return strings.TrimSuffix(s, "0s")
	default:
		return s
	}
}

// check says what is wrong with a spec by itself; now is the cluster's time. What
// the state must decide (the id, the end) it leaves to the state.
func check(s *agentplanev1.CommandSpec, now int64) *problem {
	runTimeout, killGrace := time.Duration(s.GetRunTimeout()), time.Duration(s.GetKillGrace())
	switch ways := targetWays(s); {
	case ways == 0:
		return problemf("no_target", "the command names neither a selector nor agents, nor a command that it runs again")
	case ways > 1:
		return problemf("two_targets", "the command names two of a selector, agents, and a command that it runs again: one of them")
	case (s.GetRerunOf() == "") != (len(s.GetRerunStates()) == 0):
		return problemf("rerun", "a command that is run again, and the states in which its targets are, are named together")
	case len(s.GetRerunStates()) > maxRerunStates || slices.ContainsFunc(s.GetRerunStates(), notFinal):
		return problemf("rerun", "the states %v in which a command is run again are not all final, each once", s.GetRerunStates())
	case len(s.GetAgents()) > fsm.MaxTargets:
		return problemf("too_many", "%d agents are above the maximum %d", len(s.GetAgents()), fsm.MaxTargets)
	case len(s.GetSteps()) > 0 && len(s.GetArgv())+len(s.GetScript()) > 0:
		return problemf("two_programs", "the command has steps and a program or a script: one of them")
	case runTimeout < 0 || runTimeout > MaxRunTimeout:
		return problemf("run_timeout", "run timeout %v is not between 0 (the default %v) and %v", runTimeout, defaultRunTimeout, MaxRunTimeout)
	case killGrace < 0 || killGrace > MaxKillGrace:
		return problemf("kill_grace", "kill grace %v is not between 0 and %v", killGrace, MaxKillGrace)
	case s.GetNotAfter() <= 0:
		return problemf("no_end", "the command has no time after which it expires")
	case s.GetNotAfter() > now && time.Duration(s.GetNotAfter()-now) > MaxTTL:
		return problemf("not_after", "the command would expire at %s, more than %v after the cluster's time %s", stamp(s.GetNotAfter()), MaxTTL, stamp(now))
	case s.GetNotBefore() < 0 || s.GetNotBefore() >= s.GetNotAfter():
		return problemf("not_before", "the command would begin at %s, which is not before its end at %s", stamp(s.GetNotBefore()), stamp(s.GetNotAfter()))
	case s.GetSplay() < 0 || s.GetSplay() > int64(fsm.MaxSplay):
		return problemf("splay", "splay %v is not between 0 and %v", time.Duration(s.GetSplay()), fsm.MaxSplay)
	case s.GetSplay() > 0 && s.GetNotAfter()-max(now, s.GetNotBefore()) < s.GetSplay():
		return problemf("splay", "the command would expire at %s, within its splay of %v: those who begin late could not", stamp(s.GetNotAfter()), time.Duration(s.GetSplay()))
	case s.GetDelivery() < agentplanev1.Delivery_DELIVERY_UNSPECIFIED || s.GetDelivery() > agentplanev1.Delivery_DELIVERY_IDEMPOTENT:
		return problemf("delivery", "delivery class %d is none of at-most-once, idempotent", s.GetDelivery())
	case s.GetProfile() != "":
		return problemf("profile", "there is no sandbox profile %.40q: this version knows none", s.GetProfile())
	case max(len(s.GetLocks()), len(s.GetFleetLocks())) > fsm.MaxCommandLocks:
		return problemf("locks", "%d locks of hosts and %d of the fleet: at most %d of each are allowed", len(s.GetLocks()), len(s.GetFleetLocks()), fsm.MaxCommandLocks)
	case s.GetPriority() > fsm.MaxPriority:
		return problemf("priority", "priority %d is not between 0 and %d", s.GetPriority(), fsm.MaxPriority)
	case s.GetSupersede() != "" && !fsm.ValidLockName(s.GetSupersede()):
		return problemf("supersede", "supersede key %.80q: a key has 1 to %d letters, digits and . _ - / inside", s.GetSupersede(), fsm.MaxLockNameBytes)
	case !traceparent(s.GetTraceparent()):
		return problemf("traceparent", "traceparent %.60q has not the form VERSION-TRACE-PARENT-FLAGS", s.GetTraceparent())
	}
	for _, name := range slices.Concat(s.GetLocks(), s.GetFleetLocks()) {
		if !fsm.ValidLockName(name) {
			return problemf("lock_name", "lock %.80q: a name has 1 to %d letters, digits and . _ - / inside", name, fsm.MaxLockNameBytes)
		}
	}
	if p := cmp.Or(checkPrograms(s), checkUndo(s)); p != nil {
		return p
	}
	if _, err := blob.CheckBrought(s); err != nil {
		return problemf("files", "what the command brings along: %v", err)
	}
	if s.GetRollout() != nil {
		return checkRollout(s.GetRollout())
	}
	return nil
}

// checkProgram says what is wrong with what is to be run.
func checkProgram(what string, argv []string, script []byte) *problem {
	switch {
	case len(argv) == 0 && len(script) == 0:
		return problemf("no_program", "%s has neither a program nor a script", what)
	case len(argv) > 0 && len(script) > 0:
		return problemf("two_programs", "%s has a program and a script: one of them", what)
	case len(argv) > MaxArgs:
		return problemf("argv", "%d arguments of %s are above the maximum %d", len(argv), what, MaxArgs)
	case len(argv) > 0 && argv[0] == "":
		return problemf("argv", "the name of the program of %s is empty", what)
	}
	return checkArgs(argv)
}

func checkArgs(argv []string) *problem {
	for i, arg := range argv {
		switch {
		case len(arg) > MaxArgBytes:
			return problemf("argv", "argument %d has %d bytes, at most %d are allowed", i, len(arg), MaxArgBytes)
		case strings.IndexByte(arg, 0) >= 0:
			return problemf("argv", "argument %d has a zero byte", i)
		}
	}
	return nil
}

// targetWays is in how many ways a spec says whom it means.
func targetWays(s *agentplanev1.CommandSpec) (n int) {
	for _, said := range []bool{s.GetSelector() != "", len(s.GetAgents()) > 0, s.GetRerunOf() != ""} {
		if said {
			n++
		}
	}
	return n
}

// maxRerunStates is how many final states there are.
const maxRerunStates = 8

// notFinal says of a state that an attempt does not end in it.
func notFinal(s agentplanev1.AttemptState) bool {
	return s < agentplanev1.AttemptState_ATTEMPT_STATE_LOST || agentplanev1.AttemptState_name[int32(s)] == ""
}

// traceparent holds a W3C trace context to the letters that one may have: it becomes
// an environment variable.
func traceparent(s string) bool {
	return len(s) <= maxTraceBytes && strings.Trim(s, "0123456789abcdef-") == ""
}

// summary is one line for listings.
func summary(s *agentplanev1.CommandSpec) string {
	line := ""
	if len(s.GetSteps()) > 0 {
		line = "steps: " + stepNames(s.GetSteps())
	} else if len(s.GetScript()) > 0 {
		for text := range strings.Lines(strings.ToValidUTF8(string(s.GetScript()), "\uFFFD")) {
			if text = strings.TrimSpace(text); text != "" && !strings.HasPrefix(text, "#!") {
				line = text
				break
			}
		}
		line = "script: " + line
	} else {
		var words []string
		for i, size := 0, 0; i < len(s.GetArgv()) && size <= summaryBytes; i++ {
			words = append(words, quoted(s.GetArgv()[i]))
			size += len(words[i]) + 1
		}
		line = strings.Join(words, " ")
	}
	line = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, line)
	if len(line) <= summaryBytes {
		return line
	}
	cut := summaryBytes - len("…")
	for cut > 0 && !utf8.RuneStart(line[cut]) {
		cut--
	}
	return line[:cut] + "…"
}

// quoted shows where an argument begins and ends.
func quoted(arg string) string {
	if arg == "" || strings.ContainsAny(arg, " \t\r\n\"'\\$`;&|<>()*?[]{}#~!") {
		return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	return arg
}

// printable says that s stands on one line as it is.
func printable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}
