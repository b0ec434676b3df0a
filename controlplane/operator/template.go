package operator

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/template"
)

// Templates keeps commands that were thought of before, and runs them for those who may
// run nothing else.
type Templates struct {
	agentplanev1.UnimplementedTemplateServiceServer
	*service
	commands *Commands
}

// PutTemplate makes the version that follows the expected one.
func (s *Templates) PutTemplate(ctx context.Context, req *agentplanev1.PutTemplateRequest) (*agentplanev1.PutTemplateResponse, error) {
	if err := identity.ValidateName(req.GetName()); err != nil {
		return nil, s.refuse(codes.InvalidArgument, "name", "template: %v", err)
	}
	if in := raftlogv1.Unknown(req); in != "" {
		return nil, s.refuse(codes.InvalidArgument, "unknown_field", "the template holds a field of %s that this node does not know: upgrade the nodes", in.Name())
	}
	if err := template.Check(req.GetSpec()); err != nil {
		return nil, s.refuse(codes.InvalidArgument, "bad_template", "template %q: %v", req.GetName(), err)
	}
	spec, err := proto.MarshalOptions{Deterministic: true}.Marshal(req.GetSpec())
	if err != nil {
		return nil, s.refuse(codes.InvalidArgument, "bad_template", "template %q: %v", req.GetName(), err)
	}
	digest := sha256.Sum256(spec)
	o, v, err := s.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PutTemplate{PutTemplate: &raftlogv1.PutTemplate{
		Name: req.GetName(), Spec: spec, Digest: digest[:], CreatedBy: s.callerName(ctx), ExpectedVersion: req.GetExpectedVersion(),
	}}})
	if err != nil {
		return nil, err
	}
	version := uint32(o.GetNumber())
	row, err := s.template(v, req.GetName(), version)
	if err != nil { // somebody has deleted it meanwhile; it was made all the same
		row = &agentplanev1.Template{Name: req.GetName(), Version: version, Spec: req.GetSpec(), CreatedBy: s.callerName(ctx)}
	}
	s.o.Logger.Info("template made", "name", req.GetName(), "version", o.GetNumber(), "by", s.callerName(ctx))
	return &agentplanev1.PutTemplateResponse{Template: row, Repeated: o.GetRepeated()}, nil
}

// GetTemplate answers one version of a template.
func (s *Templates) GetTemplate(ctx context.Context, req *agentplanev1.GetTemplateRequest) (*agentplanev1.GetTemplateResponse, error) {
	v, err := s.read(ctx, req.GetStale())
	if err != nil {
		return nil, err
	}
	if last, _ := v.LastTemplate(req.GetName()); last.GetDeletedAt() != 0 && req.GetWithDeleted() && req.GetVersion() == 0 {
		return &agentplanev1.GetTemplateResponse{
			Template: &agentplanev1.Template{Name: last.GetName(), Version: last.GetVersion(), DeletedAt: last.GetDeletedAt()},
		}, nil
	}
	row, err := s.template(v, req.GetName(), req.GetVersion())
	if err != nil {
		return nil, err
	}
	return &agentplanev1.GetTemplateResponse{Template: row}, nil
}

// ListTemplates answers the newest version of each, by name.
func (s *Templates) ListTemplates(ctx context.Context, req *agentplanev1.ListTemplatesRequest) (*agentplanev1.ListTemplatesResponse, error) {
	v, err := s.read(ctx, req.GetStale())
	if err != nil {
		return nil, err
	}
	answer := &agentplanev1.ListTemplatesResponse{}
	for r := range v.Templates() {
		row, err := s.templateRow(r)
		if err != nil {
			return nil, err
		}
		answer.Templates = append(answer.Templates, row)
	}
	return answer, nil
}

// DeleteTemplate deletes all versions. Repeated, it answers the same.
func (s *Templates) DeleteTemplate(ctx context.Context, req *agentplanev1.DeleteTemplateRequest) (*agentplanev1.DeleteTemplateResponse, error) {
	if _, _, err := s.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_DeleteTemplate{
		DeleteTemplate: &raftlogv1.DeleteTemplate{Name: req.GetName(), ExpectedVersion: req.GetExpectedVersion()},
	}}); err != nil {
		return nil, err
	}
	s.o.Logger.Info("template deleted", "name", req.GetName(), "by", s.callerName(ctx))
	return &agentplanev1.DeleteTemplateResponse{}, nil
}

// RunTemplate is Submit for commands of a template, which Submit itself verifies; here there
// has to be one.
func (s *Templates) RunTemplate(ctx context.Context, req *agentplanev1.RunTemplateRequest) (*agentplanev1.RunTemplateResponse, error) {
	sub, err := decodeSubmission(req.GetEnvelope())
	if err != nil {
		return nil, s.refuse(codes.InvalidArgument, "bad_envelope", "%v", err)
	}
	if more := beside(sub.spec); more != "" {
		return nil, s.refuseHint(codes.PermissionDenied, "beside_template", "leave it away, or ask an operator to submit it",
			"the command says %s, which is not for those who run templates alone", more)
	}
	if sub.spec.GetTemplate() == nil {
		return nil, s.refuseHint(codes.PermissionDenied, "no_template", `see what there is with "agentctl templates list"`,
			"the command was made from no template, and this call runs nothing else")
	}
	r, err := s.commands.Submit(ctx, &agentplanev1.SubmitRequest{Envelope: req.GetEnvelope()})
	if err != nil {
		return nil, err
	}
	return &agentplanev1.RunTemplateResponse{Command: r.GetCommand(), Repeated: r.GetRepeated(), Notes: r.GetNotes()}, nil
}

// runnerFields are what a command of a template may say to whoever runs it for those who may
// run nothing else. A field that is new is not among them until somebody has looked whether
// it holds a program.
var runnerFields = []protoreflect.Name{
	"cluster_id", "incarnation", "command_id", "selector", "agents", "argv", "run_timeout", "kill_grace", "not_before", "not_after",
	"delivery", "queue_offline", "traceparent", "template", "secrets", "rerun_of", "rerun_states",
}

// beside names a field of the spec that is not one of these; empty when there is none.
func beside(spec *agentplanev1.CommandSpec) (field string) {
	spec.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if !slices.Contains(runnerFields, f.Name()) {
			field = string(f.Name())
		}
		return field == ""
	})
	return field
}

// template answers one version, 0 for the newest.
func (s *service) template(v *fsm.View, name string, version uint32) (*agentplanev1.Template, error) {
	r, found := v.Template(name, version)
	if found {
		return s.templateRow(r)
	}
	what := fmt.Sprintf("there is no template %q", name)
	if newest, found := v.Template(name, 0); found {
		what = fmt.Sprintf("template %q has no version %d; the newest is %d, and %d are kept", name, version, newest.GetVersion(), fsm.MaxTemplateVersions)
	}
	return nil, s.refuse(codes.NotFound, "no_template", "%s", what)
}

func (s *service) templateRow(r *raftlogv1.Template) (*agentplanev1.Template, error) {
	t := &agentplanev1.Template{
		Name: r.GetName(), Version: r.GetVersion(), Spec: &agentplanev1.TemplateSpec{},
		CreatedBy: r.GetCreatedBy(), CreatedAt: r.GetCreatedAt(), CreatedIndex: r.GetCreatedIndex(),
	}
	if err := proto.Unmarshal(r.GetSpec(), t.Spec); err != nil { // it was made from one
		return nil, s.refuse(codes.DataLoss, "bad_template", "template %q cannot be read: %v", r.GetName(), err)
	}
	return t, nil
}

// ofTemplate refuses a command that says to be one of a template and is not, and secrets
// without a template, which alone says that they are some.
func (c *Commands) ofTemplate(v *fsm.View, spec *agentplanev1.CommandSpec) error {
	use := spec.GetTemplate()
	switch {
	case use == nil && len(spec.GetSecrets()) > 0:
		return c.refuse(codes.InvalidArgument, "secrets", "the command has secrets, and was made from no template")
	case use == nil:
		return nil
	case len(spec.GetFiles()) > 0 || spec.GetStdin() != nil:
		return c.refuse(codes.InvalidArgument, "files", "a command of template %.80q brings files or an input along, which templates do not have", use.GetName())
	case use.GetVersion() == 0:
		return c.refuse(codes.InvalidArgument, "template_version", "the command names no version of template %.80q", use.GetName())
	}
	t, err := c.template(v, use.GetName(), use.GetVersion())
	if err != nil {
		return err
	}
	if err := template.Verify(t.GetSpec(), spec); err != nil {
		return c.refuse(codes.InvalidArgument, "template_mismatch", "template %q, version %d: %v", use.GetName(), use.GetVersion(), err)
	}
	return nil
}

// withoutSecrets takes the values of secrets out of a spec that is shown.
func withoutSecrets(spec *agentplanev1.CommandSpec) *agentplanev1.CommandSpec {
	for _, s := range spec.GetSecrets() {
		s.Value = ""
	}
	return spec
}
