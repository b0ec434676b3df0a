package sim

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/e2e/linear"
	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/template"
)

const (
	// editors change templates at the same time, of which there are so many.
	editors   = 2
	templates = 2
	// hush stands in every secret and nowhere else.
	hush = "hush-hush"
)

// sheets are the templates that operators know, and what they were told of them. They are
// safe for concurrent use.
type sheets struct {
	began time.Time

	mu     sync.Mutex                        // guards what follows; never held while waiting
	newest map[string]*agentplanev1.Template // that somebody was shown, by name
	turn   int
	ops    []linear.TemplateOp
}

// sheet is a template whose program says which content it was made of.
func sheet(turn int) *agentplanev1.TemplateSpec {
	lowest, highest, zero := int64(1), int64(2000), "0"
	return &agentplanev1.TemplateSpec{
		Argv: []string{"work", "${takes}ms", "${code}", fmt.Sprint("turn-", turn)},
		Parameters: []*agentplanev1.Parameter{
			{Name: "takes", Type: agentplanev1.ParameterType_PARAMETER_TYPE_INT, Min: &lowest, Max: &highest},
			{Name: "code", Type: agentplanev1.ParameterType_PARAMETER_TYPE_INT, Default: &zero},
			{Name: "token", Type: agentplanev1.ParameterType_PARAMETER_TYPE_STRING, Secret: true, Env: "TOKEN"},
		},
		RunTimeout: int64(5 * time.Second), KillGrace: int64(killGrace), Delivery: agentplanev1.Delivery_DELIVERY_AT_MOST_ONCE,
	}
}

// edit puts versions of templates, reads them and now and then deletes one, until ctx ends,
// and notes for porcupine what it is told.
func (o *operators) edit(ctx context.Context, number int) {
	d := o.desk(0x7465 + uint64(number))
	defer d.close()
	expected := make(map[string]uint32) // by name, as this editor knows it
	for ctx.Err() == nil {
		d.turn(ctx, perTurn, func(c *client.Client) {
			time.Sleep(time.Duration(300+d.rng.IntN(1400)) * time.Millisecond)
			op := linear.TemplateOp{Client: number, Template: fmt.Sprint("t", d.rng.IntN(templates)), Kind: linear.Put}
			switch n := d.rng.IntN(10); {
			case n < 4:
				op.Kind = linear.Get
			case n == 4:
				op.Kind = linear.Delete
			}
			if op.Kind == linear.Put || op.Kind == linear.Delete && d.rng.IntN(2) == 0 {
				op.Expected = expected[op.Template]
			}
			switch told := o.onTemplate(ctx, c, d.rng, op); {
			case told.Answer == linear.OK && told.Kind != linear.Delete, told.Answer == linear.Absent && told.Kind == linear.Get:
				expected[op.Template] = told.Version // also of a deleted one
			}
		})
	}
}

// onTemplate does one operation and answers what was told.
func (o *operators) onTemplate(ctx context.Context, c *client.Client, rng *rand.Rand, op linear.TemplateOp) linear.TemplateOp {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(300+rng.IntN(5000))*time.Millisecond)
	defer cancel()
	s := &o.w.sheets
	s.mu.Lock()
	if s.turn++; op.Kind == linear.Put {
		op.Content = fmt.Sprint("turn-", s.turn)
	}
	spec := sheet(s.turn)
	s.mu.Unlock()
	var row *agentplanev1.Template
	var err error
	op.Call = time.Since(s.began)
	switch op.Kind {
	case linear.Put:
		row, _, err = c.PutTemplate(ctx, op.Template, spec, op.Expected)
	case linear.Delete:
		err = c.DeleteTemplate(ctx, op.Template, op.Expected)
	default:
		r, failed := agentplanev1.NewTemplateServiceClient(c).GetTemplate(ctx, &agentplanev1.GetTemplateRequest{Name: op.Template, WithDeleted: true})
		row, err = r.GetTemplate(), failed
		op.Content = strings.Join(row.GetSpec().GetArgv(), " ")
		op.Content = op.Content[strings.LastIndexByte(op.Content, ' ')+1:]
	}
	op.End = time.Since(s.began)
	op.Version = row.GetVersion()
	o.heed(err)
	if row.GetDeletedAt() != 0 {
		op.Answer, row = linear.Absent, nil
	}
	if err != nil {
		switch e := client.AsError(err); {
		case e.OutcomeUnknown && op.Kind != linear.Get:
			op.Answer = linear.Unknown
		case e.Reason == "version_moved":
			op.Answer = linear.Conflict
		case e.Reason == "no_template" && op.Kind != linear.Put:
			op.Answer = linear.Absent
		default:
			if !nothingDone(e) {
				o.w.fault("%s: %v", op, err)
			}
			return linear.TemplateOp{Answer: linear.Unknown}
		}
	}
	o.w.trace.Note("operator", "%s", op)
	s.mu.Lock()
	s.ops = append(s.ops, op)
	if row != nil && row.GetVersion() > s.newest[op.Template].GetVersion() {
		s.newest[op.Template] = row
	}
	s.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case op.Kind == linear.Get:
		o.reads++
	case err == nil:
		o.writes++
	}
	return op
}

// nothingDone says that an error tells that a call has done nothing.
func nothingDone(e *client.Error) bool {
	return slices.Contains([]codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.ResourceExhausted}, e.Code) ||
		e.Reason == "certificate_expired"
}

// fill makes a command of a template, with a secret; false when none is known, or chance
// wants it otherwise.
func (o *operators) fill(rng *rand.Rand, spec *agentplanev1.CommandSpec) bool {
	if o.w.trade != tradeTemplates || rng.IntN(3) > 0 {
		return false
	}
	s := &o.w.sheets
	s.mu.Lock()
	t := s.newest[fmt.Sprint("t", rng.IntN(templates))]
	s.mu.Unlock()
	if t == nil {
		return false
	}
	values := map[string]string{"takes": strconv.Itoa(1 + rng.IntN(1500)), "token": fmt.Sprint(hush, "-", rng.Uint32())}
	if rng.IntN(4) == 0 {
		values["code"] = "3"
	}
	made, err := client.FromTemplate(t, values)
	if err != nil {
		o.w.fault("fill template %v: %v", t, err)
		return false
	}
	spec.Argv, spec.Secrets, spec.Template = made.Argv, made.Secrets, made.Template
	spec.RunTimeout, spec.KillGrace, spec.Delivery = int64(made.RunTimeout), int64(made.KillGrace), made.Delivery
	spec.Locks, spec.Exclusive, spec.Rollout = nil, false, nil
	return true
}

// submitTemplated submits a command of a template in the way of those who may run no other.
func (o *operators) submitTemplated(ctx context.Context, c *client.Client, envelope []byte) (*agentplanev1.Command, error) {
	r, err := agentplanev1.NewTemplateServiceClient(c).RunTemplate(ctx, &agentplanev1.RunTemplateRequest{Envelope: envelope})
	return r.GetCommand(), err
}

// templateJudge is a second, smaller state machine of templates. It never forgets a version.
type templateJudge struct {
	specs map[string]*agentplanev1.TemplateSpec // by name and version
	last  map[string]uint64                     // by name, the highest version
	seen  map[string]int                        // what there was to be judged
}

func newTemplateJudge() *templateJudge {
	return &templateJudge{specs: make(map[string]*agentplanev1.TemplateSpec), last: make(map[string]uint64), seen: make(map[string]int)}
}

// judge wants of what an entry was granted that no number of a version is given twice, and
// that a command which says to be of a version is what that version makes of its arguments.
func (j *templateJudge) judge(v *fsm.View, e *raftlogv1.Entry, outcomes []*raftlogv1.Outcome) (wrong []string) {
	bad := func(format string, args ...any) {
		wrong = append(wrong, fmt.Sprintf("at index %d %s", v.Index(), fmt.Sprintf(format, args...)))
	}
	for n, m := range e.GetMutations() {
		if o := outcomes[n]; o.GetCode() == raftlogv1.Code_CODE_OK && !o.GetRepeated() {
			switch k := m.GetKind().(type) {
			case *raftlogv1.Mutation_PutTemplate:
				name, spec := k.PutTemplate.GetName(), &agentplanev1.TemplateSpec{}
				if err := proto.Unmarshal(k.PutTemplate.GetSpec(), spec); err != nil || o.GetNumber() != j.last[name]+1 {
					bad("I8: version %d of template %s follows %d (%v)", o.GetNumber(), name, j.last[name], err)
				}
				j.last[name] = o.GetNumber()
				j.specs[fmt.Sprint(name, "/", o.GetNumber())] = spec
				j.seen["template versions"]++
			case *raftlogv1.Mutation_SubmitCommand:
				spec := specOf(k.SubmitCommand.GetEnvelope())
				use := spec.GetTemplate()
				if use == nil {
					continue
				}
				j.seen["template runs"]++
				t := j.specs[fmt.Sprint(use.GetName(), "/", use.GetVersion())]
				if t == nil {
					bad("command %s is of version %d of template %s, which never was", spec.GetCommandId(), use.GetVersion(), use.GetName())
				} else if err := template.Verify(t, spec); err != nil {
					bad("command %s is not of version %d of template %s: %v", spec.GetCommandId(), use.GetVersion(), use.GetName(), err)
				}
			}
		}
	}
	return wrong
}

// specOf reads what an envelope holds.
func specOf(envelope []byte) *agentplanev1.CommandSpec {
	env, spec := &agentplanev1.Envelope{}, &agentplanev1.CommandSpec{}
	_ = proto.Unmarshal(envelope, env)
	_ = proto.Unmarshal(env.GetSpec(), spec)
	return spec
}

// judgeTemplates wants that editors were told what one thing could have told them, that
// programs had the secrets, and that these stand nowhere but in the envelopes.
func (w *World) judgeTemplates(v *fsm.View) {
	if w.trade != tradeTemplates {
		return
	}
	result, err := linear.JudgeTemplates(w.sheets.ops, "")
	w.judgeHistory("templates", result, err, w.sheets.ops)
	w.mu.Lock()
	w.accepted["operations on templates"] += len(w.sheets.ops)
	w.mu.Unlock()
	for c := range v.CommandsNewestFirst(0) {
		w.keepsSecret("the row of a command", c)
		for i := range v.Invocations(c.GetId()) {
			w.keepsSecret("the row of an invocation", i)
		}
	}
	for l := range v.Templates() {
		w.keepsSecret("a template", l)
	}
}

// judgePrograms wants that what was started is what the command asks for, and had its
// secrets.
func (w *World) judgePrograms(v *fsm.View, c *command, starts map[execute.Attempt][]Start) {
	envelope, _ := v.Envelope(c.id)
	spec := specOf(envelope)
	argv := spec.GetArgv()
	if steps := spec.GetSteps(); len(steps) > 0 {
		argv = steps[0].GetArgv()
	}
	var secrets []string
	for _, s := range spec.GetSecrets() {
		secrets = append(secrets, s.GetEnv()+"="+s.GetValue())
	}
	for i := range v.Invocations(c.id) {
		for _, s := range starts[execute.Attempt{InvocationID: i.GetId(), Number: i.GetAttempt()}] {
			if !slices.Equal(s.Argv, argv) || !slices.Equal(s.Secrets, secrets) {
				w.fault("%s was started as %q with %d secrets, the command asks for %q with %d", s.Attempt, s.Argv, len(s.Secrets), argv, len(secrets))
			}
		}
	}
}

// keepsSecret wants that a message which others see holds no secret.
func (w *World) keepsSecret(what string, m proto.Message) {
	if b, _ := proto.Marshal(m); bytes.Contains(b, []byte(hush)) {
		w.fault("a secret stands in %s: %v", what, m)
	}
}

// readTemplated reads of a command of a template whatever an operator may read of it.
func (o *operators) readTemplated(ctx context.Context, c *client.Client, cmd *command) {
	commands := agentplanev1.NewCommandServiceClient(c)
	if r, err := commands.GetCommand(ctx, &agentplanev1.GetCommandRequest{Id: cmd.id, WithSpec: true, WithInvocations: true, WithOutput: true}); err == nil {
		o.w.keepsSecret("what is read of a command", r)
	}
	if r, err := commands.ListCommands(ctx, &agentplanev1.ListCommandsRequest{Limit: 20}); err == nil {
		o.w.keepsSecret("a list of commands", r)
	}
	if r, err := commands.Why(ctx, &agentplanev1.WhyRequest{CommandId: cmd.id, Agent: cmd.agents[0]}); err == nil {
		o.w.keepsSecret("why", r)
	}
}

// eavesdropper reads what nodes and agents log, for secrets.
type eavesdropper struct{ w *World }

// Write takes a line.
func (l eavesdropper) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte(hush)) {
		l.w.fault("a secret is logged: %s", line)
	}
	return len(line), nil
}
