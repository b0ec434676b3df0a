package agent

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/agent/journal"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/wave"
)

// Reasons of REJECTED, one word for programs.
const (
	reasonUnsupported  = "unsupported"   // it asks for what this release does not know
	reasonWrongCluster = "wrong_cluster" // it is of another cluster, or of a life to come
	reasonNotMeant     = "not_meant"     // it is not for this agent, or not this command
	reasonInvalid      = "invalid"       // it cannot be run
	reasonNotYet       = "not_yet"       // its time has not come
	reasonExpired      = "expired"       // its time is over
	reasonForgotten    = "forgotten"     // it is older than the journal
	reasonPolicy       = "policy"        // the host's own policy
	reasonNoJournal    = "no_journal"    // the journal cannot be written
	reasonNoSlot       = "no_slot"       // more claims than slots, and too many wait
	reasonNoFile       = "no_file"       // what it brings along was not gotten
)

// early is how far the cluster's time may be ahead of what the agent makes of it: the node
// stamps what it says with its last entry.
const early = 5 * time.Second

// A Policy is the host's own say. It answers an empty reason for what may run; the reason
// stands in the detail of REJECTED(policy). Of a command with steps it is asked about each,
// and of an undo as well, as of a command that is that program alone. It must not block.
type Policy func(*agentplanev1.CommandSpec) (reason string)

// rejection is why an attempt will never start here.
type rejection struct{ reason, detail string }

func rejectf(reason, format string, args ...any) *rejection {
	return &rejection{reason, fmt.Sprintf(format, args...)}
}

// order is a delivery that has been understood.
type order struct {
	deliver *agentplanev1.Deliver
	spec    *agentplanev1.CommandSpec
	intent  journal.Intent
}

func (o *order) key() journal.Key { return o.intent.Key }

// stage is what an order is judged against.
type stage struct {
	clusterID   string
	agentID     string
	name        string
	incarnation uint32
	now         int64 // the cluster's
	floor       int64 // the journal's
	policy      Policy
}

// judge understands a delivery. The order is there in any case, with as much of the intent
// as NEVER needs; a rejection says why it must not start. It is pure but for the policy.
func judge(d *agentplanev1.Deliver, at stage) (*order, *rejection) {
	o := &order{deliver: d, spec: &agentplanev1.CommandSpec{}}
	o.intent = journal.Intent{
		Key:       journal.Key{InvocationID: d.GetInvocationId(), Attempt: d.GetAttempt()},
		CommandID: d.GetCommandId(), Fence: d.GetFence(), Digest: sha256.Sum256(d.GetEnvelope()),
		Submitted: d.GetSubmittedAt(), At: at.now,
	}
	if len(o.intent.CommandID) > journal.MaxIDBytes {
		o.intent.CommandID = ""
	}
	if o.intent.Submitted <= 0 {
		o.intent.Submitted = max(at.now, 1)
	}
	env := &agentplanev1.Envelope{}
	if err := proto.Unmarshal(d.GetEnvelope(), env); err != nil {
		return o, rejectf(reasonInvalid, "the envelope cannot be read: %v", err)
	}
	if err := proto.Unmarshal(env.GetSpec(), o.spec); err != nil {
		return o, rejectf(reasonInvalid, "the command cannot be read: %v", err)
	}
	o.intent.NotAfter = o.spec.GetNotAfter()
	return o, at.judge(o, env)
}

func (at stage) judge(o *order, env *agentplanev1.Envelope) *rejection {
	d, spec := o.deliver, o.spec
	switch {
	case unknownFields(d.ProtoReflect()) || unknownFields(env.ProtoReflect()) || unknownFields(spec.ProtoReflect()):
		// Something that its sender means is not understood: half a command is another one.
		return rejectf(reasonUnsupported, "the command has fields that agentd does not know; upgrade agentd")
	case spec.GetClusterId() != at.clusterID:
		return rejectf(reasonWrongCluster, "the command is of cluster %.64q, this agent of %q", spec.GetClusterId(), at.clusterID)
	case spec.GetIncarnation().GetNumber() > at.incarnation:
		return rejectf(reasonWrongCluster, "the command is of incarnation %d, the session of %d", spec.GetIncarnation().GetNumber(), at.incarnation)
	case d.GetPart() != agentplanev1.Part_PART_UNSPECIFIED && d.GetPart() != agentplanev1.Part_PART_PROBE:
		return rejectf(reasonUnsupported, "part %d of the command is none that agentd knows; upgrade agentd", d.GetPart())
	case d.GetPart() == agentplanev1.Part_PART_PROBE && spec.GetRollout().GetProbe() == nil:
		return rejectf(reasonInvalid, "the command has no probe")
	case commandOf(d, spec) != d.GetCommandId() || !belongs(d.GetInvocationId(), d.GetCommandId()):
		return rejectf(reasonNotMeant, "invocation %.128q of command %.64q carries command %.64q", d.GetInvocationId(), d.GetCommandId(), spec.GetCommandId())
	case len(spec.GetAgents()) > 0 && !slices.Contains(spec.GetAgents(), at.agentID) && !slices.Contains(spec.GetAgents(), at.name):
		return rejectf(reasonNotMeant, "the command names its agents, and %q is not among them", at.name)
	case spec.GetProfile() != "":
		return rejectf(reasonUnsupported, "sandbox profile %.64q: this agentd has no sandbox", spec.GetProfile())
	case spec.GetNotAfter() <= 0:
		return rejectf(reasonInvalid, "the command has no end (not_after)")
	case spec.GetNotAfter() <= at.now:
		return rejectf(reasonExpired, "it was to start before %s", stamp(spec.GetNotAfter()))
	case spec.GetNotBefore() > at.now+int64(early):
		return rejectf(reasonNotYet, "it is not to start before %s", stamp(spec.GetNotBefore()))
	case d.GetSubmittedAt() < at.floor:
		return rejectf(reasonForgotten, "it was submitted at %s, and the journal begins at %s", stamp(d.GetSubmittedAt()), stamp(at.floor))
	}
	if at.policy == nil {
		return nil
	}
	if len(o.program().GetSteps()) == 0 {
		if reason := at.policy(o.program()); reason != "" {
			return rejectf(reasonPolicy, "%s", reason)
		}
	}
	for n, step := range o.program().GetSteps() {
		if reason := at.policy(asProgram(o.program(), step)); reason != "" {
			return rejectf(reasonPolicy, "step %d (%.64s): %s", n+1, step.GetName(), reason)
		}
	}
	if u := o.program().GetUndo(); u != nil {
		undo := &agentplanev1.Step{Argv: u.GetArgv(), Script: u.GetScript(), RunTimeout: u.GetRunTimeout()}
		if reason := at.policy(asProgram(o.program(), undo)); reason != "" {
			return rejectf(reasonPolicy, "the undo: %s", reason)
		}
	}
	return nil
}

// asProgram is the spec with one of its steps as the only program.
func asProgram(spec *agentplanev1.CommandSpec, step *agentplanev1.Step) *agentplanev1.CommandSpec {
	s := proto.CloneOf(spec)
	s.Steps, s.Undo, s.Argv, s.Script = nil, nil, step.GetArgv(), step.GetScript()
	s.RunTimeout = cmp.Or(step.GetRunTimeout(), spec.GetRunTimeout())
	return s
}

// commandOf is the id that the command of a delivery must have: the envelope's, or what
// package wave makes of it for a probe.
func commandOf(d *agentplanev1.Deliver, spec *agentplanev1.CommandSpec) string {
	if d.GetPart() == agentplanev1.Part_PART_PROBE {
		return wave.ProbeID(spec.GetCommandId(), d.GetWave())
	}
	return spec.GetCommandId()
}

// belongs says whether the invocation's id is made of the command's: COMMAND.ORDINAL.
func belongs(invocationID, commandID string) bool {
	ordinal, ok := strings.CutPrefix(invocationID, commandID+".")
	if !ok || commandID == "" {
		return false
	}
	_, err := strconv.ParseUint(ordinal, 10, 32)
	return err == nil
}

// unknownFields says whether a message, or one inside it, has fields that this release
// does not know.
func unknownFields(m protoreflect.Message) bool {
	if len(m.GetUnknown()) > 0 {
		return true
	}
	found := false
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil || f.IsMap():
		case f.IsList():
			for i := range v.List().Len() {
				found = found || unknownFields(v.List().Get(i).Message())
			}
		default:
			found = unknownFields(v.Message())
		}
		return !found
	})
	return found
}

func stamp(nanos int64) string { return time.Unix(0, nanos).UTC().Format(time.RFC3339) }

// minOutputBytes is the least that package execute keeps.
const minOutputBytes = 256 << 10

// program is the spec with the program that the delivery means in the place of the first.
func (o *order) program() *agentplanev1.CommandSpec {
	if o.deliver.GetPart() != agentplanev1.Part_PART_PROBE {
		return o.spec
	}
	s, p := proto.CloneOf(o.spec), o.spec.GetRollout().GetProbe()
	s.Argv, s.Script, s.Steps, s.Undo = p.GetArgv(), p.GetScript(), nil, nil
	s.RunTimeout = cmp.Or(p.GetTimeout(), int64(wave.ProbeTimeout))
	return s
}

// steps says that the attempt has steps, if only for the sake of its undo.
func (o *order) steps() bool {
	program := o.program()
	return len(program.GetSteps()) > 0 || program.GetUndo() != nil
}

// spec is what to run.
func (w *worker) spec(o *order) execute.Spec {
	c, program := w.o.Settings(), o.program()
	s := execute.Spec{
		Attempt:   execute.Attempt{InvocationID: o.intent.InvocationID, Number: o.intent.Attempt},
		CommandID: o.intent.CommandID, AgentID: w.o.AgentID, Fence: o.intent.Fence,
		Argv: program.GetArgv(), Script: program.GetScript(), TraceParent: program.GetTraceparent(),
		Timeout: time.Duration(program.GetRunTimeout()), KillGrace: time.Duration(program.GetKillGrace()),
		OutputBytes: max(c.Output.MaxBytes, minOutputBytes),
	}
	s.Undo = undoSpec(program)
	for _, step := range program.GetSteps() {
		s.Steps = append(s.Steps, execute.Step{
			Name: step.GetName(), Argv: step.GetArgv(), Script: step.GetScript(), Timeout: time.Duration(step.GetRunTimeout()),
		})
	}
	for _, secret := range o.spec.GetSecrets() {
		s.Secrets = append(s.Secrets, secret.GetEnv()+"="+secret.GetValue())
	}
	w.bring(&s, o)
	if s.Timeout == 0 {
		s.Timeout = c.Run.TimeoutDefault
	}
	if s.KillGrace == 0 {
		s.KillGrace = c.Run.KillGrace
	}
	return s
}
