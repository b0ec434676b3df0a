package client

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/template"
)

// FromTemplate returns a command of the template with these values for its parameters. Whom
// it means is left to say. Those whose role is to run templates alone may submit it, too.
func FromTemplate(t *agentplanev1.Template, values map[string]string) (*Command, error) {
	f, err := template.Fill(t.GetSpec(), values)
	if err != nil {
		return nil, err
	}
	return &Command{
		Argv: f.Argv, Secrets: f.Secrets,
		Template:   &agentplanev1.TemplateUse{Name: t.GetName(), Version: t.GetVersion(), Arguments: f.Arguments},
		RunTimeout: time.Duration(t.GetSpec().GetRunTimeout()), KillGrace: time.Duration(t.GetSpec().GetKillGrace()),
		Delivery: t.GetSpec().GetDelivery(),
	}, nil
}

// PutTemplate makes the version of a template that follows expected, which is what
// LastTemplateVersion answers.
// repeated says that the newest version has this content already.
func (c *Client) PutTemplate(ctx context.Context, name string, spec *agentplanev1.TemplateSpec, expected uint32) (t *agentplanev1.Template, repeated bool, err error) {
	r, err := agentplanev1.NewTemplateServiceClient(c).PutTemplate(ctx, &agentplanev1.PutTemplateRequest{
		Name: name, Spec: spec, ExpectedVersion: expected,
	})
	return r.GetTemplate(), r.GetRepeated(), err
}

// Template returns one version of a template, 0 for the newest.
func (c *Client) Template(ctx context.Context, name string, version uint32, opts ...ReadOption) (*agentplanev1.Template, error) {
	r, err := agentplanev1.NewTemplateServiceClient(c).GetTemplate(ctx, &agentplanev1.GetTemplateRequest{
		Name: name, Version: version, Stale: readOf(opts).stale,
	})
	return r.GetTemplate(), err
}

// LastTemplateVersion returns the number of the newest version of a template, also of a
// deleted one, and 0 for a name that never had any.
func (c *Client) LastTemplateVersion(ctx context.Context, name string) (uint32, error) {
	r, err := agentplanev1.NewTemplateServiceClient(c).GetTemplate(ctx, &agentplanev1.GetTemplateRequest{Name: name, WithDeleted: true})
	if err != nil && AsError(err).Code != codes.NotFound {
		return 0, err
	}
	return r.GetTemplate().GetVersion(), nil
}

// Templates returns the newest version of each template, by name.
func (c *Client) Templates(ctx context.Context, opts ...ReadOption) ([]*agentplanev1.Template, error) {
	r, err := agentplanev1.NewTemplateServiceClient(c).ListTemplates(ctx, &agentplanev1.ListTemplatesRequest{Stale: readOf(opts).stale})
	return r.GetTemplates(), err
}

// DeleteTemplate deletes all versions of a template when its newest is the expected one, or
// whichever that is when expected is 0.
func (c *Client) DeleteTemplate(ctx context.Context, name string, expected uint32) error {
	_, err := agentplanev1.NewTemplateServiceClient(c).DeleteTemplate(ctx, &agentplanev1.DeleteTemplateRequest{Name: name, ExpectedVersion: expected})
	return err
}
