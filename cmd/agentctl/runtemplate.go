package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/template"
)

// templateName reads NAME or NAME:VERSION; version 0 is the newest.
func templateName(word string) (name string, version uint32, err error) {
	name, number, versioned := strings.Cut(strings.TrimPrefix(word, "@"), ":")
	if !versioned {
		return name, 0, nil
	}
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil || n == 0 {
		return "", 0, &failure{
			code: exitUsage, err: fmt.Errorf("template %q: %q is no version: it is a number above 0, as in @%s:1", word, number, name),
			hint: fmt.Sprintf("see %q", "agentctl templates get "+name),
		}
	}
	return name, uint32(n), nil
}

// runTemplate fills a template and runs it.
func (a *app) runTemplate(cmd *cobra.Command, f *runFlags, args []string) error {
	name, version, err := templateName(args[0])
	if err != nil {
		return err
	}
	if f.steps.given() {
		return usagef("--step and a template are both given: a template has one program")
	}
	for _, flag := range []string{"script", "timeout", "kill-grace", "class"} {
		if cmd.Flags().Changed(flag) {
			return &failure{
				code: exitUsage, err: fmt.Errorf("--%s is the template's to say", flag),
				hint: fmt.Sprintf("leave --%s away; see what it says with: agentctl templates get %s", flag, name),
			}
		}
	}
	for _, flag := range []string{"file", "stdin"} {
		if cmd.Flags().Changed(flag) {
			return usagef("--%s is not for templates: they bring nothing along", flag)
		}
	}
	expr, agents, err := f.sel.meant(a)
	switch {
	case err != nil:
		return err
	case expr == "" && len(agents) == 0:
		return usagef("nobody is meant: say --on SELECTOR (or --on all), or -l LABELS")
	}
	queue := cmd.Flags().Changed("queue")
	wait, err := f.wait(cmd.Flags().Changed("ttl"), queue)
	if err != nil {
		return err
	}
	if err := f.prepare(a); err != nil {
		return err
	}
	if err := f.check(a); err != nil {
		return err
	}
	if err := f.results.prepare(f.detach); err != nil {
		return err
	}
	return a.with(cmd.Context(), func(s *session) error {
		t, err := s.Template(cmd.Context(), name, version)
		if err != nil {
			return err
		}
		values, err := a.templateValues(t, args[1:])
		if err != nil {
			return err
		}
		command, err := client.FromTemplate(t, values)
		if errors.Is(err, template.ErrValue) {
			return &failure{code: exitUsage, err: fmt.Errorf("@%s: %w", t.Name, err), hint: fmt.Sprintf("see %q", "agentctl templates get "+t.Name)}
		}
		if err != nil {
			return err
		}
		command.Selector, command.Agents, command.TTL, command.Queue, command.Edit = expr, agents, wait, queue, f.edit
		if f.plan {
			return a.showPlan(cmd.Context(), s, command)
		}
		return a.submit(cmd.Context(), s, f, command)
	})
}

// templateValues reads NAME=VALUE words. The value of a secret comes from a file, the
// environment or stdin: a command line is seen by others, and kept in the shell's history.
func (a *app) templateValues(t *agentplanev1.Template, words []string) (map[string]string, error) {
	values := map[string]string{}
	for _, word := range words {
		name, value, ok := strings.Cut(word, "=")
		if !ok || name == "" {
			return nil, ofTemplate(t, "%q is no NAME=VALUE; the template takes %s", word, parameterWords(t.Spec))
		}
		if _, twice := values[name]; twice {
			return nil, ofTemplate(t, "%s is given twice", name)
		}
		for _, p := range t.Spec.GetParameters() {
			if p.Name != name || !p.Secret {
				continue
			}
			var err error
			if value, err = a.secretValue(name, value); err != nil {
				return nil, err
			}
		}
		values[name] = value
	}
	return values, nil
}

// ofTemplate is a mistake about the parameters of a template.
func ofTemplate(t *agentplanev1.Template, format string, args ...any) error {
	return &failure{code: exitUsage, err: fmt.Errorf("@%s: %w", t.Name, fmt.Errorf(format, args...)), hint: fmt.Sprintf("see %q", "agentctl templates get "+t.Name)}
}

func (a *app) secretValue(name, where string) (string, error) {
	path := where
	switch {
	case strings.HasPrefix(where, "env:"):
		value := a.getenv(strings.TrimPrefix(where, "env:"))
		if value == "" {
			return "", usagef("%s: the environment has no %q", name, strings.TrimPrefix(where, "env:"))
		}
		return value, nil
	case strings.HasPrefix(where, "@"):
		path = strings.TrimPrefix(where, "@")
	case where != "-":
		return "", usagef("%s is secret, and others see a command line: %s=@FILE, %s=env:VARIABLE, or %s=- for stdin", name, name, name, name)
	}
	r, err := a.open(name, path)
	if err != nil {
		return "", err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, template.MaxValueBytes+2))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r"), nil
}

func (a *app) completeTemplates(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.first(templateWords(""))(cmd, args, word)
}

func templateWords(prefix string) func(context.Context, *session) ([]string, error) {
	return func(ctx context.Context, s *session) ([]string, error) {
		all, err := s.Templates(ctx, client.Stale(true))
		var words []string
		for _, t := range all {
			words = append(words, cobra.CompletionWithDesc(prefix+t.Name, t.Spec.GetDescription()))
		}
		return words, err
	}
}

// completeRun completes @NAME, and the parameters behind it.
func (a *app) completeRun(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	switch {
	case cmd.Flags().Changed("rerun"):
		return a.completeCommands(cmd, args, word)
	case len(args) == 0 && strings.HasPrefix(word, "@"):
		return a.live(cmd, templateWords("@"))
	case len(args) == 0 || !strings.HasPrefix(args[0], "@"):
		return nil, cobra.ShellCompDirectiveDefault
	}
	words, directive := a.live(cmd, func(ctx context.Context, s *session) ([]string, error) {
		name, version, err := templateName(args[0])
		if err != nil {
			return nil, err
		}
		t, err := s.Template(ctx, name, version, client.Stale(true))
		return valueWords(t.GetSpec(), args[1:]), err
	})
	return words, directive | cobra.ShellCompDirectiveNoSpace
}

// valueWords are what may follow, without what stands there already.
func valueWords(t *agentplanev1.TemplateSpec, given []string) (words []string) {
	for _, p := range t.GetParameters() {
		used := false
		for _, word := range given {
			used = used || strings.HasPrefix(word, p.Name+"=")
		}
		switch {
		case used:
		case len(p.Values) > 0:
			for _, v := range p.Values {
				words = append(words, cobra.CompletionWithDesc(p.Name+"="+v, p.Description))
			}
		case p.Type == agentplanev1.ParameterType_PARAMETER_TYPE_BOOL:
			words = append(words, p.Name+"=true", p.Name+"=false")
		default:
			words = append(words, cobra.CompletionWithDesc(p.Name+"=", p.Description))
		}
	}
	return words
}
