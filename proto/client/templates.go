package client

import (
	"context"
	"time"

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

// PutTemplate makes the version of a template that follows expected, which is 0 for the
// first. repeated says that the newest version has this content already.
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

// Templates returns the newest version of each template, by name.
func (c *Client) Templates(ctx context.Context, opts ...ReadOption) ([]*agentplanev1.Template, error) {
	r, err := agentplanev1.NewTemplateServiceClient(c).ListTemplates(ctx, &agentplanev1.ListTemplatesRequest{Stale: readOf(opts).stale})
	return r.GetTemplates(), err
}

// DeleteTemplate deletes all versions of a template.
func (c *Client) DeleteTemplate(ctx context.Context, name string) error {
	_, err := agentplanev1.NewTemplateServiceClient(c).DeleteTemplate(ctx, &agentplanev1.DeleteTemplateRequest{Name: name})
	return err
}
