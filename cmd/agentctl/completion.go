package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// completeWithin bounds what a press of the tab key may take.
const completeWithin = 1500 * time.Millisecond

func (a *app) completionCmd() *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use: "completion bash|zsh|fish", Short: "print a script that completes commands, flags and live ids",
		Long: "Print a completion script. For bash: source <(agentctl completion bash)",
		Args: args(1, 1, "a shell: bash, zsh or fish"), Annotations: is(offline), ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			}
			return usagef("there is no completion for %q: bash, zsh or fish%s", args[0], nearest(args[0], shells))
		},
	}
}

func (a *app) completeFlags(root *cobra.Command) {
	fixed := func(name string, values []string) {
		_ = root.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	fixed("output", formats)
	_ = root.RegisterFlagCompletionFunc("context", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		file, err := a.contexts()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, _ := file.Names() // no file, no names
		return names, cobra.ShellCompDirectiveNoFileComp
	})
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
	r, err := agentplanev1.NewFleetServiceClient(s).ListAgents(ctx, &agentplanev1.ListAgentsRequest{Stale: true})
	var words []string
	for _, g := range r.GetAgents() {
		words = append(words, cobra.CompletionWithDesc(g.Id, g.Name+" "+g.Health))
		if g.Name != "" && g.Name != g.Id {
			words = append(words, cobra.CompletionWithDesc(g.Name, g.Health))
		}
	}
	return words, err
}

func commandWords(ctx context.Context, s *session) ([]string, error) {
	r, err := agentplanev1.NewCommandServiceClient(s).ListCommands(ctx, &agentplanev1.ListCommandsRequest{Stale: true, Limit: 100})
	var words []string
	for _, c := range r.GetCommands() {
		words = append(words, cobra.CompletionWithDesc(c.Id, stateName(c.State)+" "+c.Summary))
	}
	return words, err
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
		r, err := agentplanev1.NewClusterServiceClient(s).ListMembers(ctx, &agentplanev1.ListMembersRequest{Stale: true})
		var words []string
		for _, m := range r.GetMembers() {
			words = append(words, cobra.CompletionWithDesc(m.Name, m.Id+" "+m.Address))
		}
		return words, err
	})(cmd, args, word)
}

func (a *app) completeTokens(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.first(func(ctx context.Context, s *session) ([]string, error) {
		r, err := agentplanev1.NewTokenServiceClient(s).ListTokens(ctx, &agentplanev1.ListTokensRequest{Stale: true})
		var words []string
		for _, t := range r.GetTokens() {
			words = append(words, cobra.CompletionWithDesc(t.Id, stateName(t.Kind)+" "+t.State))
		}
		return words, err
	})(cmd, args, word)
}

func (a *app) completeOperators(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.first(func(ctx context.Context, s *session) ([]string, error) {
		r, err := agentplanev1.NewOperatorServiceClient(s).ListOperators(ctx, &agentplanev1.ListOperatorsRequest{Stale: true})
		var words []string
		for _, o := range r.GetOperators() {
			words = append(words, cobra.CompletionWithDesc(o.Name, o.Role))
		}
		return words, err
	})(cmd, args, word)
}
