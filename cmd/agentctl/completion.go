package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/agentplane/agentplane/proto/client"
)

// completeWithin bounds what a press of the tab key may take.
const completeWithin = 1500 * time.Millisecond

func (a *app) completionCmd() *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use: "completion bash|zsh|fish", Short: "print a script that completes commands, flags and live ids",
		Long: "Print a completion script. For bash, with or without its package bash-completion: source <(agentctl completion bash)",
		Args: args(1, 1, "a shell: bash, zsh or fish"), Annotations: is(offline), ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "bash":
				if err := root.GenBashCompletionV2(a.stdout, true); err != nil {
					return err
				}
				return a.write([]byte(bashWords))
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			}
			return usagef("there is no completion for %q: bash, zsh or fish%s", args[0], nearest(args[0], shells))
		},
	}
}

// bashWords takes the place of a function of the script that cobra makes: it asks the
// package bash-completion for the words of the line, and a bash without it would print an
// error at each press of the key. Words are split at blanks, as they were typed.
const bashWords = `
__agentctl_init_completion()
{
    COMPREPLY=()
    if declare -F _get_comp_words_by_ref >/dev/null 2>&1; then
        _get_comp_words_by_ref "$@" cur prev words cword
        return
    fi
    local line=${COMP_LINE:0:COMP_POINT}
    read -r -a words <<<"$line"
    if [[ $line == *[[:space:]] ]]; then
        words+=("")
    fi
    cword=$((${#words[@]} - 1))
    cur=${words[cword]}
    prev=${words[cword > 0 ? cword - 1 : 0]}
}
`

// filesOf are the flags whose values are files, which the shell completes.
var filesOf = []string{"script", "probe-script", "data-dir", "output-dir", "file"}

func (a *app) completeFlags(root *cobra.Command) {
	fixed := func(c *cobra.Command, name string, values ...string) {
		_ = c.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	fixed(root, "output", formats...)
	each(root, func(c *cobra.Command) {
		fixed(c, "kind", slices.Sorted(maps.Keys(tokenKinds))...)
		fixed(c, "role", "admin", "operator", "runner", "viewer")
		if c.Flags().Lookup("on") != nil {
			_ = c.RegisterFlagCompletionFunc("on", cobra.FixedCompletions(
				[]string{"all", "id", "name", "health", "label.", "fact."}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
		}
	})
	each(root, func(c *cobra.Command) {
		if c.Flags().Lookup("lock") != nil {
			_ = c.RegisterFlagCompletionFunc("lock", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
				return a.live(cmd, fleetLockWords)
			})
		}
	})
	_ = root.RegisterFlagCompletionFunc("context", func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return a.completeContexts(cmd, nil, word)
	})
	// What is left is no name of a file.
	each(root, func(c *cobra.Command) {
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if !slices.Contains(filesOf, f.Name) && f.NoOptDefVal == "" {
				fixed(c, f.Name) // refused for those that have one
			}
		})
		if c.ValidArgsFunction == nil && len(c.ValidArgs) == 0 && c.Name() != "run" {
			c.ValidArgsFunction = cobra.NoFileCompletions
		}
	})
}

// each calls f for the command and all below it.
func each(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, below := range c.Commands() {
		each(below, f)
	}
}

// live asks any node for ids, stale ones being good enough, and says nothing when
// that fails: what is typed is no place for errors.
func (a *app) live(cmd *cobra.Command, list func(context.Context, *session) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completeWithin)
	defer cancel()
	a.flags.requestTimeout = completeWithin
	s, err := a.connect(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer s.Close()
	words, err := list(ctx, s)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

// first completes the first argument only.
func (a *app) first(list func(context.Context, *session) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.live(cmd, list)
	}
}

func agentWords(ctx context.Context, s *session) ([]string, error) {
	agents, err := client.Collect(s.Agents(ctx, "", false, client.Stale(true)))
	var words []string
	for _, g := range agents {
		words = append(words, cobra.CompletionWithDesc(g.Id, g.Name+" "+g.Health))
		if g.Name != "" && g.Name != g.Id {
			words = append(words, cobra.CompletionWithDesc(g.Name, g.Health))
		}
	}
	return words, err
}

func commandWords(ctx context.Context, s *session) ([]string, error) {
	page, err := s.ListCommands(ctx, client.CommandQuery{}, 100, client.Stale(true))
	if err != nil {
		return nil, err
	}
	var words []string
	for _, c := range page.Commands {
		words = append(words, cobra.CompletionWithDesc(c.Id, stateName(c.State)+" "+c.Summary))
	}
	return words, nil
}

func (a *app) completeAgents(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.first(agentWords)(cmd, args, word)
}

func (a *app) completeCommands(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.first(commandWords)(cmd, args, word)
}

func (a *app) completeCommandAgent(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 1 {
		return a.live(cmd, agentWords)
	}
	return a.first(commandWords)(cmd, args, word)
}

func (a *app) completeMembers(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.first(func(ctx context.Context, s *session) ([]string, error) {
		members, err := s.Members(ctx, client.Stale(true))
		var words []string
		for _, m := range members {
			words = append(words, cobra.CompletionWithDesc(m.Name, m.Id+" "+m.Address))
		}
		return words, err
	})(cmd, args, word)
}

func (a *app) completeTokens(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.first(func(ctx context.Context, s *session) ([]string, error) {
		tokens, err := s.Tokens(ctx, client.Stale(true))
		var words []string
		for _, t := range tokens {
			words = append(words, cobra.CompletionWithDesc(t.Id, stateName(t.Kind)+" "+t.State))
		}
		return words, err
	})(cmd, args, word)
}

func (a *app) completeSchedules(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.first(func(ctx context.Context, s *session) ([]string, error) {
		schedules, err := s.Schedules(ctx, client.Stale(true))
		var words []string
		for _, c := range schedules {
			words = append(words, cobra.CompletionWithDesc(c.Name, c.State+" "+c.Summary))
		}
		return words, err
	})(cmd, args, word)
}

func lockWords(ctx context.Context, s *session) ([]string, error) {
	locks, err := s.Locks(ctx, client.Stale(true))
	var words []string
	for _, l := range locks {
		words = append(words, cobra.CompletionWithDesc(l.Name, fmt.Sprintf("%d of %d held", l.Held, l.Limit)))
	}
	return words, err
}

// fleetLockWords are the names by which commands know locks of the fleet.
func fleetLockWords(ctx context.Context, s *session) ([]string, error) {
	words, err := lockWords(ctx, s)
	for n := range words {
		words[n] = fleetPrefix + words[n]
	}
	return words, err
}

func (a *app) completeLocks(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.first(lockWords)(cmd, args, word)
}

func (a *app) completeOperators(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.first(func(ctx context.Context, s *session) ([]string, error) {
		operators, err := s.Operators(ctx, client.Stale(true))
		var words []string
		for _, o := range operators {
			words = append(words, cobra.CompletionWithDesc(o.Name, o.Role))
		}
		return words, err
	})(cmd, args, word)
}
