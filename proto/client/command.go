package client

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// DefaultTTL is how long a command may wait to be started when nothing is said.
const DefaultTTL = 5 * time.Minute

// Command is work to ask of agents. Exactly one of Selector, Agents and RerunOf says of
// whom, and exactly one of Argv, Script and Steps says what.
type Command struct {
	// ID is a UUIDv7. Submit sets it when it is empty, so that the same Command can be
	// submitted again when its outcome is not known: it runs once.
	ID string

	// Selector is an expression as of package selector; "all" means everybody.
	Selector string
	// Agents are ids, or names that only one agent has. One that is not there refuses
	// the whole command.
	Agents []string
	// RerunOf is the id of an earlier command: meant are those of its targets that are
	// in one of RerunStates when the cluster takes this one.
	RerunOf     string
	RerunStates []agentplanev1.AttemptState

	// Argv is a program and its arguments; no shell is between.
	Argv []string
	// Script is a file that is executed; its first line says by what.
	Script []byte
	// Steps are programs that run one after the other, each when the one before has
	// succeeded.
	Steps []*agentplanev1.Step

	// RunTimeout is how long the program may run, or each step that says nothing else,
	// and KillGrace how long it has between TERM and KILL; zero takes the defaults of
	// nodes and agents.
	RunTimeout, KillGrace time.Duration
	// TTL is how long it may wait to be started; zero is DefaultTTL.
	TTL time.Duration
	// Queue lets it wait for agents that are offline, too; else they are SKIPPED.
	Queue bool
	// Delivery says whether it may be started again after LOST; at most once unless
	// something else is said.
	Delivery agentplanev1.Delivery
	// Template says from which template Argv was made, and Secrets what the program
	// finds in its environment; FromTemplate sets them.
	Template *agentplanev1.TemplateUse
	Secrets  []*agentplanev1.Secret
	// TraceParent is a W3C trace context for the program.
	TraceParent string

	// Edit, when not nil, sets fields of the spec that have none here. It is called for
	// each envelope that is made and has to do the same each time.
	Edit func(*agentplanev1.CommandSpec) error
}

// Envelope returns the exact bytes of the command for an incarnation of a cluster, which
// are what the cluster keeps and agents run. It needs an ID. All times count from the
// time in it, so that the same Command gives the same bytes, and submitting them again
// answers what stands.
func (c *Command) Envelope(clusterID string, incarnation *agentplanev1.Incarnation) ([]byte, error) {
	made, err := IDTime(c.ID)
	if err != nil {
		return nil, fmt.Errorf("command id %q: %w", c.ID, err)
	}
	spec, err := c.spec()
	if err != nil {
		return nil, err
	}
	spec.ClusterId, spec.Incarnation, spec.CommandId = clusterID, incarnation, c.ID
	spec.NotAfter += made.UnixNano()
	exact := proto.MarshalOptions{Deterministic: true}
	data, err := exact.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("command %s: %w", c.ID, err)
	}
	envelope, err := exact.Marshal(&agentplanev1.Envelope{Spec: data})
	if err != nil {
		return nil, fmt.Errorf("command %s: %w", c.ID, err)
	}
	return envelope, nil
}

// spec is what is asked, but for what only the cluster and the ID know. NotAfter is a
// span.
func (c *Command) spec() (*agentplanev1.CommandSpec, error) {
	spec := &agentplanev1.CommandSpec{
		Selector: c.Selector, Agents: c.Agents, RerunOf: c.RerunOf, RerunStates: c.RerunStates,
		Argv: c.Argv, Script: c.Script, Steps: c.Steps, RunTimeout: int64(c.RunTimeout), KillGrace: int64(c.KillGrace),
		NotAfter: int64(c.ttl()), QueueOffline: c.Queue, Delivery: c.Delivery, Traceparent: c.TraceParent,
		Template: c.Template, Secrets: c.Secrets,
	}
	if c.Edit != nil {
		if err := c.Edit(spec); err != nil {
			return nil, err
		}
	}
	return spec, nil
}

func (c *Command) ttl() time.Duration { return cmp.Or(c.TTL, DefaultTTL) }

// RerunWords are the words for sets of final states, and which states each means.
var RerunWords = map[string][]agentplanev1.AttemptState{
	"failed":   {agentplanev1.AttemptState_ATTEMPT_STATE_FAILED, agentplanev1.AttemptState_ATTEMPT_STATE_TIMED_OUT},
	"lost":     {agentplanev1.AttemptState_ATTEMPT_STATE_LOST},
	"expired":  {agentplanev1.AttemptState_ATTEMPT_STATE_EXPIRED},
	"canceled": {agentplanev1.AttemptState_ATTEMPT_STATE_CANCELED},
	"rejected": {agentplanev1.AttemptState_ATTEMPT_STATE_REJECTED},
	"skipped":  {agentplanev1.AttemptState_ATTEMPT_STATE_SKIPPED},
	"all-not-succeeded": {
		agentplanev1.AttemptState_ATTEMPT_STATE_LOST, agentplanev1.AttemptState_ATTEMPT_STATE_FAILED,
		agentplanev1.AttemptState_ATTEMPT_STATE_TIMED_OUT, agentplanev1.AttemptState_ATTEMPT_STATE_CANCELED,
		agentplanev1.AttemptState_ATTEMPT_STATE_REJECTED, agentplanev1.AttemptState_ATTEMPT_STATE_EXPIRED,
		agentplanev1.AttemptState_ATTEMPT_STATE_SKIPPED,
	},
}

// ErrSecrets says that a command cannot be made again, since its secrets are shown to
// nobody.
var ErrSecrets = errors.New("it has secrets, which have to be given again")

// Rerun returns a new command with the program and the limits of an earlier one, spec,
// on those of its targets that are in one of the states. It gets an id of its own, and
// waits to be started as long as the earlier one did. One with secrets cannot be made
// again: nobody is shown them.
func Rerun(spec *agentplanev1.CommandSpec, states ...agentplanev1.AttemptState) (*Command, error) {
	made, err := IDTime(spec.GetCommandId())
	if err != nil {
		return nil, fmt.Errorf("rerun command %q: %w", spec.GetCommandId(), err)
	}
	if len(spec.GetSecrets()) > 0 {
		return nil, fmt.Errorf("rerun command %q: %w", spec.GetCommandId(), ErrSecrets)
	}
	c := &Command{
		RerunOf: spec.GetCommandId(), RerunStates: slices.Clone(states), Argv: spec.GetArgv(), Script: spec.GetScript(), Steps: spec.GetSteps(),
		RunTimeout: time.Duration(spec.GetRunTimeout()), KillGrace: time.Duration(spec.GetKillGrace()),
		TTL: time.Unix(0, spec.GetNotAfter()).Sub(made), Queue: spec.GetQueueOffline(), Delivery: spec.GetDelivery(),
		Template: spec.GetTemplate(),
	}
	rest := proto.CloneOf(spec)
	for _, own := range ownFields {
		rest.ProtoReflect().Clear(rest.ProtoReflect().Descriptor().Fields().ByName(own))
	}
	c.Edit = func(next *agentplanev1.CommandSpec) error {
		proto.Merge(next, rest) // what has no field in Command
		return nil
	}
	return c, nil
}

// ownFields are those of a spec that a further command does not take over as they are:
// Command has them, or they are of the one occasion.
var ownFields = []protoreflect.Name{
	"cluster_id", "incarnation", "command_id", "selector", "agents", "rerun_of", "rerun_states", "argv", "script", "steps",
	"run_timeout", "kill_grace", "not_before", "not_after", "delivery", "queue_offline", "traceparent", "template", "secrets",
}
