package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
	"github.com/agentplane/agentplane/proto/template"
)

const templatesHelp = `Keep commands with holes, which "agentctl run @NAME" fills. Whoever has the role runner may
run these and nothing else. A template is a file:

  description: restart a service
  argv: [systemctl, restart, "${name}"]
  parameters:
    - {name: name, values: [nginx, redis]}
  timeout: 5m

Each hole ${NAME} takes the value of a parameter as it is; no shell is between, and $$ is a
dollar sign. A parameter has a type (string, int, bool, enum, duration), and may have a
description, a default, a pattern that all of a string has to match, min and max of a
number or duration, and values of an enum. A secret one (secret: true, env: VARIABLE) has no
hole: the program finds it in its environment, and it is shown to nobody.

Every content is a version of its own. Commands say of which version they are made.`

func (a *app) templatesCmd() *cobra.Command {
	c := &cobra.Command{Use: "templates", Short: "keep commands with typed parameters, for run @NAME", Long: templatesHelp}
	c.AddCommand(
		a.templatesCreate(),
		&cobra.Command{
			Use: "list", Short: "list the templates", Args: args(0, 0, ""), Annotations: is(reads), RunE: a.templatesList,
		},
		&cobra.Command{
			Use: "get NAME[:VERSION]", Short: "show a template and its parameters", Args: args(1, 1, "the name of a template"), Annotations: is(reads),
			ValidArgsFunction: a.completeTemplates, RunE: a.templatesGet,
		},
		&cobra.Command{
			Use: "delete NAME", Short: "delete all versions of a template", Args: args(1, 1, "the name of a template"),
			ValidArgsFunction: a.completeTemplates, RunE: a.templatesDelete,
		},
	)
	return c
}

func (a *app) templatesCreate() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use: "create NAME -f FILE", Short: "make a template, or its next version", Long: templatesHelp, Args: args(1, 1, "the name of a template"),
		ValidArgsFunction: a.completeTemplates,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := identity.ValidateName(args[0]); err != nil {
				return usagef("%w", err)
			}
			spec, err := a.readTemplate(path)
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(s *session) error { return a.putTemplate(cmd, s, args[0], spec) })
		},
	}
	c.Flags().StringVarP(&path, "file", "f", "", "read the template from `FILE` (- is stdin)")
	return c
}

func (a *app) readTemplate(path string) (*agentplanev1.TemplateSpec, error) {
	if path == "" {
		return nil, usagef("the template is missing: -f FILE")
	}
	r, err := a.open("-f", path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, template.MaxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read template %q: %w", path, err)
	}
	spec, err := template.Parse(text)
	if err != nil {
		return nil, &failure{code: exitUsage, err: fmt.Errorf("-f %s: %w", path, err), hint: `see "agentctl templates create --help" for what a template may say`}
	}
	return spec, nil
}

func (a *app) putTemplate(cmd *cobra.Command, s *session, name string, spec *agentplanev1.TemplateSpec) error {
	last, err := s.LastTemplateVersion(cmd.Context(), name)
	if err != nil {
		return err
	}
	made, repeated, err := s.PutTemplate(cmd.Context(), name, spec, last)
	if err != nil {
		return hintUnknown(err, "agentctl templates get "+name)
	}
	verb := "is made"
	if repeated {
		verb = "stood already"
	}
	return a.done(toObject(made), "template %s:%d %s", name, made.GetVersion(), verb)
}

func (a *app) templatesList(cmd *cobra.Command, _ []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		all, err := s.Templates(cmd.Context(), client.Stale(a.flags.stale))
		if err != nil {
			return err
		}
		return printList(a, all, []column[*agentplanev1.Template]{
			{"NAME", false, (*agentplanev1.Template).GetName},
			{"VERSION", false, func(t *agentplanev1.Template) string { return fmt.Sprint(t.Version) }},
			{"PARAMETERS", false, func(t *agentplanev1.Template) string { return parameterWords(t.Spec) }},
			{"WHAT", false, func(t *agentplanev1.Template) string { return t.Spec.GetDescription() }},
			{"BY", true, (*agentplanev1.Template).GetCreatedBy},
			{"AGE", true, func(t *agentplanev1.Template) string { return a.age(t.CreatedAt) }},
			{"PROGRAM", true, func(t *agentplanev1.Template) string { return strings.Join(t.Spec.GetArgv(), " ") }},
		})
	})
}

// parameterWords are the parameters as one types them.
func parameterWords(t *agentplanev1.TemplateSpec) string {
	var words []string
	for _, p := range t.GetParameters() {
		word := p.Name + "=" + parameterType(p)
		if p.Default != nil {
			word = "[" + p.Name + "=" + p.GetDefault() + "]"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

func parameterType(p *agentplanev1.Parameter) string {
	switch {
	case p.Secret:
		return "@FILE"
	case len(p.Values) > 0:
		return strings.Join(p.Values, "|")
	default:
		return strings.ToUpper(template.TypeWord(p))
	}
}

func (a *app) templatesGet(cmd *cobra.Command, args []string) error {
	name, version, err := templateName(args[0])
	if err != nil {
		return err
	}
	return a.with(cmd.Context(), func(s *session) error {
		t, err := s.Template(cmd.Context(), name, version, client.Stale(a.flags.stale))
		if err != nil {
			return err
		}
		return printOne(a, toObject(t), func(w io.Writer) {
			pairs(w,
				[2]string{"template", fmt.Sprintf("%s:%d", t.Name, t.Version)}, [2]string{"what", t.Spec.GetDescription()},
				[2]string{"program", fmt.Sprintf("%q", t.Spec.GetArgv())},
				[2]string{"timeout", limitText(t.Spec.GetRunTimeout())}, [2]string{"kill grace", limitText(t.Spec.GetKillGrace())},
				[2]string{"class", strings.ToLower(stateName(t.Spec.GetDelivery()))},
				[2]string{"made", fmt.Sprintf("%s by %s, at index %d", clock(t.CreatedAt), t.CreatedBy, t.CreatedIndex)},
				[2]string{"run it", strings.TrimSpace("agentctl run @" + t.Name + " " + parameterWords(t.Spec) + " --on SELECTOR")},
			)
			if len(t.Spec.GetParameters()) > 0 {
				fmt.Fprintln(w)
				writeTable(w, false, t.Spec.GetParameters(), parameterColumns)
			}
		})
	})
}

func limitText(ns int64) string {
	if ns == 0 {
		return ""
	}
	return shortDuration(time.Duration(ns))
}

var parameterColumns = []column[*agentplanev1.Parameter]{
	{"PARAMETER", false, (*agentplanev1.Parameter).GetName},
	{"TYPE", false, template.TypeWord},
	{"DEFAULT", false, func(p *agentplanev1.Parameter) string { return p.GetDefault() }},
	{"MAY BE", false, func(p *agentplanev1.Parameter) string {
		switch {
		case p.Secret:
			return "secret, in $" + p.Env
		case len(p.Values) > 0:
			return strings.Join(p.Values, ", ")
		case p.Pattern != "":
			return "all of it matches " + p.Pattern
		default:
			return boundsText(p)
		}
	}},
	{"WHAT", false, (*agentplanev1.Parameter).GetDescription},
}

// boundsText says between which values one of a number or a duration lies.
func boundsText(p *agentplanev1.Parameter) string {
	show := func(n int64) string {
		if p.Type == agentplanev1.ParameterType_PARAMETER_TYPE_DURATION {
			return shortDuration(time.Duration(n))
		}
		return fmt.Sprint(n)
	}
	switch {
	case p.Min != nil && p.Max != nil:
		return show(p.GetMin()) + " to " + show(p.GetMax())
	case p.Min != nil:
		return show(p.GetMin()) + " or more"
	case p.Max != nil:
		return "up to " + show(p.GetMax())
	default:
		return ""
	}
}

func (a *app) templatesDelete(cmd *cobra.Command, args []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		last, err := s.LastTemplateVersion(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if err := s.DeleteTemplate(cmd.Context(), args[0], last); err != nil {
			return hintUnknown(err, "agentctl templates list")
		}
		return a.done(object{{"deleted", args[0]}}, "template %s is deleted", args[0])
	})
}
