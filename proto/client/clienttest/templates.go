package clienttest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/template"
)

type templateService struct {
	agentplanev1.UnimplementedTemplateServiceServer
	service
}

func (s *State) templateLocked(name string, version uint32) (*agentplanev1.Template, error) {
	versions := s.templates[name]
	if version == 0 {
		version = uint32(len(versions))
	}
	if version == 0 || int(version) > len(versions) {
		return nil, Refusal(codes.NotFound, "no_template", fmt.Sprintf("there is no template %q", name), "see agentctl templates list")
	}
	return versions[version-1], nil
}

func (t templateService) PutTemplate(_ context.Context, req *agentplanev1.PutTemplateRequest) (*agentplanev1.PutTemplateResponse, error) {
	if err := template.Check(req.Spec); err != nil {
		return nil, Refusal(codes.InvalidArgument, "bad_template", err.Error(), "")
	}
	s := t.state
	s.mu.Lock()
	defer s.mu.Unlock()
	versions := s.templates[req.Name]
	newest := len(versions)
	if newest > 0 && proto.Equal(versions[newest-1].Spec, req.Spec) {
		return &agentplanev1.PutTemplateResponse{Template: versions[newest-1], Repeated: true}, nil
	}
	if int(req.ExpectedVersion) != newest {
		return nil, Refusal(codes.Aborted, "version_moved", fmt.Sprintf("template %q is at version %d, not %d", req.Name, newest, req.ExpectedVersion), "")
	}
	s.changedLocked()
	made := &agentplanev1.Template{
		Name: req.Name, Version: req.ExpectedVersion + 1, Spec: req.Spec, CreatedBy: "admin", CreatedAt: time.Now().UnixNano(), CreatedIndex: s.index,
	}
	s.templates[req.Name] = append(versions, made)
	return &agentplanev1.PutTemplateResponse{Template: made}, nil
}

func (t templateService) GetTemplate(_ context.Context, req *agentplanev1.GetTemplateRequest) (*agentplanev1.GetTemplateResponse, error) {
	t.state.mu.Lock()
	defer t.state.mu.Unlock()
	r, err := t.state.templateLocked(req.Name, req.Version)
	return &agentplanev1.GetTemplateResponse{Template: r}, err
}

func (t templateService) ListTemplates(context.Context, *agentplanev1.ListTemplatesRequest) (*agentplanev1.ListTemplatesResponse, error) {
	t.state.mu.Lock()
	defer t.state.mu.Unlock()
	answer := &agentplanev1.ListTemplatesResponse{}
	for _, name := range slices.Sorted(maps.Keys(t.state.templates)) {
		versions := t.state.templates[name]
		answer.Templates = append(answer.Templates, versions[len(versions)-1])
	}
	return answer, nil
}

func (t templateService) DeleteTemplate(_ context.Context, req *agentplanev1.DeleteTemplateRequest) (*agentplanev1.DeleteTemplateResponse, error) {
	t.state.mu.Lock()
	defer t.state.mu.Unlock()
	if _, err := t.state.templateLocked(req.Name, 0); err != nil {
		return nil, err
	}
	t.state.changedLocked()
	delete(t.state.templates, req.Name)
	return &agentplanev1.DeleteTemplateResponse{}, nil
}

func (t templateService) RunTemplate(ctx context.Context, req *agentplanev1.RunTemplateRequest) (*agentplanev1.RunTemplateResponse, error) {
	_, spec, err := decodeSpec(req.Envelope)
	if err != nil || spec.Template == nil {
		return nil, Refusal(codes.PermissionDenied, "no_template", "the command was made from no template", "")
	}
	r, err := commandService{service: t.service}.Submit(ctx, &agentplanev1.SubmitRequest{Envelope: req.Envelope})
	if err != nil {
		return nil, err
	}
	return &agentplanev1.RunTemplateResponse{Command: r.Command, Repeated: r.Repeated}, nil
}
