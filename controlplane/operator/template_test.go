package operator

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/template"
)

func restartTemplate(t *testing.T) *agentplanev1.TemplateSpec {
	t.Helper()
	spec, err := template.Parse([]byte(`
argv: [systemctl, restart, "${name}"]
parameters:
  - {name: name, values: [nginx, redis]}
  - {name: password, secret: true, env: DB_PASSWORD}
timeout: 1m
`))
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func (w *world) put(name string, spec *agentplanev1.TemplateSpec, expected uint32) (*agentplanev1.PutTemplateResponse, error) {
	return w.Templates.PutTemplate(w.t.Context(), &agentplanev1.PutTemplateRequest{Name: name, Spec: spec, ExpectedVersion: expected})
}

func TestTemplatesHaveVersions(t *testing.T) {
	w := fleetWorld(t)
	spec := restartTemplate(t)
	first, err := w.put("restart", spec, 0)
	if err != nil || first.GetTemplate().GetVersion() != 1 || first.GetRepeated() || first.GetTemplate().GetCreatedBy() != "alice" {
		t.Fatalf("%v, %v", first, err)
	}
	if again, err := w.put("restart", spec, 0); err != nil || !again.GetRepeated() {
		t.Errorf("the same again: %v, %v", again, err)
	}
	spec.Description = "restart a service"
	_, err = w.put("restart", spec, 0)
	wantRefusal(t, err, codes.Aborted, "version_moved")
	second, err := w.put("restart", spec, 1)
	if err != nil || second.GetTemplate().GetVersion() != 2 {
		t.Fatalf("%v, %v", second, err)
	}
	old, err := w.Templates.GetTemplate(t.Context(), &agentplanev1.GetTemplateRequest{Name: "restart", Version: 1})
	if err != nil || old.GetTemplate().GetSpec().GetDescription() != "" {
		t.Errorf("version 1: %v, %v", old, err)
	}
	all, err := w.Templates.ListTemplates(t.Context(), &agentplanev1.ListTemplatesRequest{})
	if err != nil || len(all.GetTemplates()) != 1 || all.GetTemplates()[0].GetVersion() != 2 {
		t.Errorf("list: %v, %v", all, err)
	}
	for range 2 {
		if _, err := w.Templates.DeleteTemplate(t.Context(), &agentplanev1.DeleteTemplateRequest{Name: "restart"}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = w.Templates.GetTemplate(t.Context(), &agentplanev1.GetTemplateRequest{Name: "restart", Version: 2})
	wantRefusal(t, err, codes.NotFound, "no_template")
	left, err := w.Templates.GetTemplate(t.Context(), &agentplanev1.GetTemplateRequest{Name: "restart", WithDeleted: true})
	if err != nil || left.GetTemplate().GetVersion() != 2 || left.GetTemplate().GetDeletedAt() == 0 || left.GetTemplate().GetSpec() != nil {
		t.Errorf("what is left: %v, %v", left, err)
	}
	_, err = w.put("restart", spec, 0) // as a first put does that is sent again
	wantRefusal(t, err, codes.Aborted, "version_moved")
	if third, err := w.put("restart", spec, 2); err != nil || third.GetTemplate().GetVersion() != 3 {
		t.Errorf("after it was deleted: %v, %v", third, err)
	}
	_, err = w.Templates.DeleteTemplate(t.Context(), &agentplanev1.DeleteTemplateRequest{Name: "restart", ExpectedVersion: 2})
	wantRefusal(t, err, codes.Aborted, "version_moved")
	_, err = w.put("bad name", spec, 0)
	wantRefusal(t, err, codes.InvalidArgument, "name")
	spec.Argv = append(spec.Argv, "${none}")
	_, err = w.put("restart", spec, 3)
	wantRefusal(t, err, codes.InvalidArgument, "bad_template")
}

// outrun is a Proposer behind whose entries somebody else's come before anybody is answered.
type outrun struct {
	*world
	then []*raftlogv1.Mutation
}

func (o outrun) Propose(ctx context.Context, muts ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	out, err := o.world.Propose(ctx, muts...)
	o.must(o.then...)
	return out, err
}

func TestATemplateThatIsDeletedAtOnceWasMade(t *testing.T) {
	w := fleetWorld(t)
	w.Templates.o.Proposer = outrun{w, []*raftlogv1.Mutation{{Kind: &raftlogv1.Mutation_DeleteTemplate{
		DeleteTemplate: &raftlogv1.DeleteTemplate{Name: "restart"},
	}}}}
	r, err := w.put("restart", restartTemplate(t), 0)
	if made := r.GetTemplate(); err != nil || made.GetVersion() != 1 || made.GetName() != "restart" || made.GetCreatedBy() != "alice" || r.GetRepeated() {
		t.Errorf("it was made, and is answered as %v, %v", r, err)
	}
	if _, found := w.m.View().Template("restart", 1); found {
		t.Error("it was not deleted meanwhile")
	}
}

// fromTemplate is a command that a client made of version 1 of "restart".
func (w *world) fromTemplate(spec *agentplanev1.TemplateSpec) *agentplanev1.CommandSpec {
	f, err := template.Fill(spec, map[string]string{"name": "redis", "password": "hunter2"})
	if err != nil {
		w.t.Fatal(err)
	}
	c := w.spec(`id == "a1"`)
	c.Argv, c.Secrets = f.Argv, f.Secrets
	c.Template = &agentplanev1.TemplateUse{Name: "restart", Version: 1, Arguments: f.Arguments}
	c.RunTimeout, c.KillGrace, c.Delivery = spec.GetRunTimeout(), spec.GetKillGrace(), spec.GetDelivery()
	return c
}

// A schedule goes on with the version of which it was made, whatever follows.
func TestScheduleKeepsItsVersionOfATemplate(t *testing.T) {
	w := fleetWorld(t)
	spec := restartTemplate(t)
	if _, err := w.put("restart", spec, 0); err != nil {
		t.Fatal(err)
	}
	made := w.fromTemplate(spec)
	w.putSchedule("nightly", func(s *agentplanev1.ScheduleSpec) {
		s.Command.Selector, s.Command.Argv, s.Command.Secrets, s.Command.Template = "all", made.GetArgv(), made.GetSecrets(), made.GetTemplate()
		s.Command.RunTimeout, s.Command.KillGrace, s.Command.Delivery = made.GetRunTimeout(), made.GetKillGrace(), made.GetDelivery()
	})
	for version := range uint32(2 * fsm.MaxTemplateVersions) {
		spec.Description = fmt.Sprint("version ", version+2)
		if _, err := w.put("restart", spec, version+1); err != nil {
			t.Fatal(err)
		}
	}
	row, _ := w.m.View().Schedule("nightly")
	if _, _, err := w.Schedules.PlanScheduled(w.m.View(), row, w.spec("all").GetCommandId(), w.now.UnixNano()); err != nil {
		t.Errorf("it fires no more: %v", err)
	}
}

func TestRunTemplateRunsNothingElse(t *testing.T) {
	w := fleetWorld(t)
	spec := restartTemplate(t)
	if _, err := w.put("restart", spec, 0); err != nil {
		t.Fatal(err)
	}
	run := func(c *agentplanev1.CommandSpec) (*agentplanev1.RunTemplateResponse, error) {
		return w.Templates.RunTemplate(t.Context(), &agentplanev1.RunTemplateRequest{Envelope: envelope(t, c)})
	}
	good := w.fromTemplate(spec)
	r, err := run(good)
	if err != nil || r.GetCommand().GetSummary() != "systemctl restart redis" || r.GetRepeated() {
		t.Fatalf("%v, %v", r, err)
	}
	if again, err := run(good); err != nil || !again.GetRepeated() {
		t.Errorf("again: %v, %v", again, err)
	}
	for name, c := range map[string]struct {
		edit   func(*agentplanev1.CommandSpec)
		code   codes.Code
		reason string
	}{
		"no template":           {func(c *agentplanev1.CommandSpec) { c.Template, c.Secrets = nil, nil }, codes.PermissionDenied, "no_template"},
		"another program":       {func(c *agentplanev1.CommandSpec) { c.Argv = []string{"sh", "-c", "id"} }, codes.InvalidArgument, "template_mismatch"},
		"a script":              {func(c *agentplanev1.CommandSpec) { c.Argv, c.Script = nil, []byte("id") }, codes.PermissionDenied, "beside_template"},
		"more time":             {func(c *agentplanev1.CommandSpec) { c.RunTimeout *= 2 }, codes.InvalidArgument, "template_mismatch"},
		"no version":            {func(c *agentplanev1.CommandSpec) { c.Template.Version = 0 }, codes.InvalidArgument, "template_version"},
		"a version to come":     {func(c *agentplanev1.CommandSpec) { c.Template.Version = 2 }, codes.NotFound, "no_template"},
		"a template of nobody":  {func(c *agentplanev1.CommandSpec) { c.Template.Name = "none" }, codes.NotFound, "no_template"},
		"what is not looked at": {func(c *agentplanev1.CommandSpec) { c.Profile = "root" }, codes.PermissionDenied, "beside_template"},
	} {
		t.Run(name, func(t *testing.T) {
			other := w.fromTemplate(spec)
			c.edit(other)
			_, err := run(other)
			wantRefusal(t, err, c.code, c.reason)
		})
	}
	secrets := w.spec("all")
	secrets.Secrets = good.GetSecrets()
	_, err = w.Commands.Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope(t, secrets)})
	wantRefusal(t, err, codes.InvalidArgument, "secrets")
}

// Whoever reads commands learns neither a secret nor a way to try whether a guess is right.
func TestSecretsAreShownToNobody(t *testing.T) {
	w := fleetWorld(t)
	spec := restartTemplate(t)
	if _, err := w.put("restart", spec, 0); err != nil {
		t.Fatal(err)
	}
	id := w.submit(w.fromTemplate(spec)).GetId()
	w.pass(time.Second)
	got, err := w.Commands.GetCommand(t.Context(), &agentplanev1.GetCommandRequest{Id: id, WithInvocations: true, WithOutput: true, WithSpec: true})
	if err != nil {
		t.Fatal(err)
	}
	if s := got.GetCommand().GetSpec().GetSecrets(); len(s) != 1 || s[0].GetEnv() != "DB_PASSWORD" || s[0].GetValue() != "" {
		t.Errorf("secrets %v", s)
	}
	if again, err := w.Commands.GetCommand(t.Context(), &agentplanev1.GetCommandRequest{Id: id, WithSpec: true}); err != nil || again.GetCommand().GetSpec().GetTemplate().GetArguments()["name"] != "redis" {
		t.Errorf("%v, %v", again, err)
	}
	list, err := w.Commands.ListCommands(t.Context(), &agentplanev1.ListCommandsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	why, err := w.Commands.Why(t.Context(), &agentplanev1.WhyRequest{CommandId: id, Agent: "a1"})
	if err != nil {
		t.Fatal(err)
	}
	if why.GetEnvelopeSha256() != "" {
		t.Error("a hash over a secret lets everybody try guesses")
	}
	for _, m := range []proto.Message{got, list, why} {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte("hunter2")) {
			t.Errorf("the secret is in %T", m)
		}
	}
	stored, _ := w.m.View().Envelope(id)
	if !bytes.Contains(stored, []byte("hunter2")) {
		t.Error("the agent would not get it")
	}
}

func TestATokenIsTakenForEveryRole(t *testing.T) {
	w := newWorld(t)
	for role, want := range map[string]codes.Code{
		"viewer": codes.OK, "runner": codes.OK, "operator": codes.OK, "admin": codes.OK, "king": codes.InvalidArgument,
	} {
		rec := mustToken(t).Record()
		_, err := w.Tokens.CreateToken(t.Context(), &agentplanev1.CreateTokenRequest{
			Id: rec.ID, ProofKey: rec.ProofKey.Reveal(), AuthenticatorHash: rec.AuthenticatorHash,
			Kind: agentplanev1.TokenKind_TOKEN_KIND_OPERATOR, MaxUses: 1, Ttl: int64(time.Hour), Role: role,
		})
		if status.Code(err) != want {
			t.Errorf("role %s: %v, want %v", role, err, want)
		}
	}
}
