package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agentplane/agentplane/proto/selector"
)

// selectorFlags say which agents are meant.
type selectorFlags struct {
	on     string
	labels string
}

func (f *selectorFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.on, "on", "", "`SELECTOR`: all, or an expression over id, name, label.NAME, fact.NAME and health")
	c.Flags().StringVarP(&f.labels, "labels", "l", "", "short form of labels, `env=prod,tier!=db`")
}

// expression returns the selector in its long form, empty when nothing is said.
// It is looked at here already, so that a mistake costs no round trip and is
// shown where it is.
func (f *selectorFlags) expression() (string, error) {
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
				hint: "an example: --on 'label.env == \"prod\" && health == \"ONLINE\"', or short: -l env=prod",
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
