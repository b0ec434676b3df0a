package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/agentplane/agentplane/proto/identity"
	"github.com/agentplane/agentplane/proto/selector"
)

// selectorFlags say which agents are meant.
type selectorFlags struct {
	on     string
	labels string
}

func (f *selectorFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.on, "on", "", "`SELECTOR`: all, or an expression over id, name, label.NAME, fact.NAME and health; for run also @FILE, a list of agents")
	c.Flags().StringVarP(&f.labels, "labels", "l", "", "short form of labels, `env=prod,tier!=db`")
}

// meant returns the selector, or the agents of the list that --on @FILE names.
func (f *selectorFlags) meant(a *app) (expr string, agents []string, err error) {
	path, list := strings.CutPrefix(f.on, "@")
	switch {
	case !list:
		expr, err = f.expression()
		return expr, nil, err
	case f.labels != "":
		return "", nil, usagef("--on %s names agents, and -l labels: one of them", f.on)
	}
	agents, err = a.readAgents(path)
	return "", agents, err
}

// maxListBytes bounds a list of agents: its command has to fit into an entry of the log.
const maxListBytes = 176 << 10

// readAgents reads ids or names of agents, one a line; what follows a # is a remark.
func (a *app) readAgents(path string) ([]string, error) {
	r, err := a.open("--on", path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read the agents in %q: %w", path, err)
	}
	var agents []string
	known := map[string]bool{}
	bytes := 0
	for n, line := range strings.Split(string(text), "\n") {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		switch {
		case line == "" || known[line]:
			continue
		case strings.ContainsAny(line, " \t"):
			return nil, usagef("--on @%s: line %d: %q: one agent a line, by id or name", path, n+1, line)
		}
		known[line] = true
		agents = append(agents, line)
		bytes += len(line) + 3 // as it lies in the command
	}
	switch {
	case len(agents) == 0:
		return nil, &failure{
			code: exitNotFound, err: fmt.Errorf("--on @%s names no agent: nobody is meant", path),
			hint: "a list has one agent a line, by id or name; an empty one of \"agentctl run --output-dir\" means that it ended so nowhere",
		}
	case bytes > maxListBytes:
		return nil, usagef("--on @%s: %d agents with %d bytes of names are more than one command holds (%d bytes): divide the list, or use a selector or --rerun",
			path, len(agents), bytes, maxListBytes)
	}
	return agents, nil
}

// expression returns the selector in its long form, empty when nothing is said.
// It is looked at here already, so that a mistake costs no round trip and is
// shown where it is.
func (f *selectorFlags) expression() (string, error) {
	if strings.HasPrefix(f.on, "@") {
		return "", usagef("--on %s: a file of agents is for \"agentctl run\"; give a selector here", f.on)
	}
	var parts []string
	for _, p := range []struct {
		flag, text string
		parse      func(string) (*selector.Selector, error)
	}{
		{"--on", f.on, selector.Parse},
		{"-l", f.labels, selector.ParseShort},
	} {
		if p.text == "" {
			continue
		}
		s, err := p.parse(p.text)
		if syntax, ok := errors.AsType[*selector.SyntaxError](err); ok {
			return "", &failure{
				code: exitUsage, err: fmt.Errorf("%s %q: column %d: %s", p.flag, p.text, syntax.Column(), syntax.Reason),
				hint: selectorHint(p.flag, p.text),
			}
		}
		if err != nil {
			return "", usagef("%s: %w", p.flag, err)
		}
		parts = append(parts, s.String())
	}
	if len(parts) < 2 {
		return strings.Join(parts, ""), nil
	}
	both, err := selector.Parse("(" + parts[0] + ") && (" + parts[1] + ")")
	if err != nil {
		return "", usagef("--on and -l together: %w", err)
	}
	return both.String(), nil
}

// selectorHint says what to write. Whoever gives one word means an agent, as elsewhere.
func selectorHint(flag, text string) string {
	const example = "an example: --on 'label.env == \"prod\" && health == \"ONLINE\"', or short: -l env=prod"
	if flag != "--on" || identity.ValidateName(text) != nil {
		return example
	}
	field := "name"
	if _, err := uuid.Parse(text); err == nil {
		field = "id"
	}
	return fmt.Sprintf("to mean the agent %s: --on '%s == %q'; several agents are meant by a label, or by a list in a file, --on @FILE", text, field, text)
}
