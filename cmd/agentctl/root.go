package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/agentplane/agentplane/configs"
	"github.com/agentplane/agentplane/proto/client"
)

// What a command does with flags that not every command has a use for.
const (
	reads   = "reads"   // takes --stale
	creates = "creates" // takes --id
	offline = "offline" // asks no cluster: takes no --addr
)

// notBuilt are words of the language that mean nothing yet. They are mistakes
// until they do.
var notBuilt = map[string]bool{
	"roles": true, "config": true, "events": true, "logs": true, "metrics": true, "top": true, "ui": true,
	"health": true, "keys": true, "audit": true, "debug": true, "--profile": true,
}

var formats = []string{"table", "wide", "json", "jsonl", "yaml"}

const rootHelp = `agentctl is the operator's command line of agentplane.

It asks any node of the cluster and goes on with another one when that node dies.
Who you are and where the nodes are stands in a context, in $AGENTCTL_CONFIG or
~/.config/agentplane/agentctl.yaml, which "agentctl cluster init" or
"agentctl login TOKEN@ADDR" makes.

Results go to stdout, talk and progress to stderr. A problem is two lines, an error
and a hint. Exit codes:

  0  ok
  1  error
  2  usage
  3  not found
  4  denied
  5  unavailable or timed out: known not to be done
  6  the outcome is not known
  7  some invocations did not succeed
  8  conflict`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "agentctl",
		Short:         "the operator's command line of agentplane",
		Long:          rootHelp,
		Version:       versionText(),
		Args:          cobra.ArbitraryArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          a.noun,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetIn(a.stdin)
	root.SetFlagErrorFunc(a.flagError)
	root.PersistentPreRunE = a.check
	f := root.PersistentFlags()
	f.StringVar(&a.flags.addr, "addr", "", "nodes to ask first, `HOST:PORT[,…]`")
	f.StringVar(&a.flags.context, "context", "", "context to use, by `NAME`")
	f.StringVarP(&a.flags.output, "output", "o", "table", "`FORMAT`: "+strings.Join(formats, ", "))
	durationVar(f, &a.flags.requestTimeout, "request-timeout", client.DefaultCallTimeout, "longest wait for one answer")
	f.BoolVar(&a.flags.stale, "stale", false, "read what one node has, without asking the others")
	f.StringVar(&a.flags.id, "id", "", "`UUID` (version 7) of what is created; repeated with the same content it answers what stands")
	f.BoolVar(&a.flags.noColor, "no-color", false, "print no colours")
	root.AddCommand(
		a.clusterCmd(), a.agentsCmd(), a.runCmd(), a.commandsCmd(), a.scheduleCmd(), a.tokensCmd(), a.operatorsCmd(), a.keysCmd(), a.lockCmd(),
		a.loginCmd(), a.contextCmd(), a.whyCmd(), a.reasonsCmd(), a.templatesCmd(), a.completionCmd(), a.versionCmd(),
	)
	for _, c := range root.Commands() {
		if c.HasSubCommands() {
			c.Args, c.RunE = cobra.ArbitraryArgs, a.noun
		}
	}
	root.SetHelpCommand(a.helpCmd(root))
	a.completeFlags(root)
	return root
}

// helpCmd takes the place of cobra's, for which an unknown word is no mistake.
func (a *app) helpCmd(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]…", Short: "print the help of a command",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil {
				return usagef("%w", err)
			}
			if len(rest) > 0 {
				return a.noun(cmd, rest)
			}
			return cmd.Help()
		},
	}
}

// noun runs where a verb is missing or not known.
func (a *app) noun(cmd *cobra.Command, args []string) error {
	a.command = cmd.CommandPath()
	var verbs []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			verbs = append(verbs, c.Name())
		}
	}
	switch {
	case len(args) == 0 && !cmd.HasParent():
		return cmd.Help()
	case len(args) == 0:
		return usagef("%s needs a verb: %s", cmd.CommandPath(), strings.Join(verbs, ", "))
	case notBuilt[args[0]] && !cmd.HasParent():
		return usagef("%q is not built yet", args[0])
	}
	return usagef("%s has no %q%s", cmd.CommandPath(), args[0], nearest(args[0], verbs))
}

func nearest(word string, known []string) string {
	best, distance := "", 2 // one letter of a short word
	if len(strings.TrimLeft(word, "-")) > 4 {
		distance = 3
	}
	for _, k := range known {
		d := edits(word, k)
		if strings.HasPrefix(k, word) {
			d = min(d, 1)
		}
		if d < distance && d < len(k) {
			best, distance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// edits counts insertions, deletions and replacements between two words.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(row[j]+1, row[j+1]+1, cost)
		}
	}
	return row[len(b)]
}

// flagError turns what pflag says into a mistake with a suggestion.
func (a *app) flagError(cmd *cobra.Command, err error) error {
	a.command = cmd.CommandPath()
	text := err.Error()
	name, unknown := strings.CutPrefix(text, "unknown flag: ")
	if !unknown {
		return usagef("%w", configs.FlagError(err))
	}
	if notBuilt[name] {
		return usagef("%s is not built yet", name)
	}
	var known []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, "--"+f.Name) })
	return usagef("%s has no flag %s%s", cmd.CommandPath(), name, nearest(name, known))
}

// check refuses flags that the command would ignore.
func (a *app) check(cmd *cobra.Command, args []string) error {
	a.command = cmd.CommandPath()
	if cmd.HasParent() && cmd.Parent().Name() == "commands" && len(args) > 0 {
		a.subject = args[0]
	}
	a.color = isTerminal(a.stderr) && !a.flags.noColor && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb"
	if !slices.Contains(formats, a.flags.output) {
		return usagef("--output %q is none of %s%s", a.flags.output, strings.Join(formats, ", "), nearest(a.flags.output, formats))
	}
	if cmd.Name() == "help" || strings.HasPrefix(cmd.Name(), "__") {
		return nil
	}
	if err := notEmpty(cmd.Flags()); err != nil {
		return err
	}
	for _, f := range []struct {
		flag  string
		takes bool
		why   string
	}{
		{"stale", cmd.Annotations[reads] != "", "it does not read the cluster's state"},
		{"id", cmd.Annotations[creates] != "", "it creates nothing"},
		{"addr", cmd.Annotations[offline] == "", "it asks no node over the network"},
	} {
		if cmd.Flags().Changed(f.flag) && !f.takes {
			return usagef("%s takes no --%s: %s", cmd.CommandPath(), f.flag, f.why)
		}
	}
	if a.flags.requestTimeout <= 0 {
		return usagef("--request-timeout %v is not above 0", a.flags.requestTimeout)
	}
	if a.flags.id != "" {
		if _, err := client.IDTime(a.flags.id); err != nil {
			return usagef("--id %q: %w", a.flags.id, err)
		}
	}
	return nil
}

// notEmpty refuses flags that say nothing. Most come of a variable that a script has not
// set, and to take them for flags that were not given may mean all agents at once.
func notEmpty(flags *pflag.FlagSet) (err error) {
	flags.Visit(func(f *pflag.Flag) {
		empty := f.Value.String() == ""
		if list, ok := f.Value.(pflag.SliceValue); ok {
			empty = strings.Join(list.GetSlice(), "") == ""
		}
		if empty && err == nil {
			err = usagef("--%s is empty: give it a value, or leave it away", f.Name)
		}
	})
	return err
}

func is(kinds ...string) map[string]string {
	m := map[string]string{}
	for _, k := range kinds {
		m[k] = "yes"
	}
	return m
}

// args wraps a check of positional arguments in words.
func args(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usagef("%s needs %s", cmd.CommandPath(), what)
		case most >= 0 && len(args) > most && what == "":
			return usagef("%s takes no argument, got %q", cmd.CommandPath(), args[most])
		case most >= 0 && len(args) > most:
			return usagef("%s takes %s, got %q too", cmd.CommandPath(), what, args[most])
		}
		return nil
	}
}

// durationValue is a duration that also knows days.
type durationValue time.Duration

func durationVar(f *pflag.FlagSet, p *time.Duration, name string, preset time.Duration, usage string) {
	*p = preset
	f.Var((*durationValue)(p), name, usage)
}

// String is what a help shows as the default: of "0" it shows none.
func (d *durationValue) String() string {
	if *d == 0 {
		return "0"
	}
	return shortDuration(time.Duration(*d))
}

func (d *durationValue) Type() string { return "D" }

func (d *durationValue) Set(s string) error {
	v, err := parseDuration(s)
	if err != nil {
		return err
	}
	*d = durationValue(v)
	return nil
}

func parseDuration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		h, err := time.ParseDuration(days + "h")
		if err != nil || h > 100_000*time.Hour {
			return 0, fmt.Errorf("%q is not a duration like 90s, 10m, 2h or 7d", s)
		}
		return 24 * h, nil
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration like 90s, 10m, 2h or 7d", s)
	}
	return v, nil
}

// shortDuration prints 5m, not 5m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
