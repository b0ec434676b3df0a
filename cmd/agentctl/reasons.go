package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

const reasonsHelp = `The words in the column REASON and in the field "reason", beside the state of an
invocation, and what may be done about each. They are stable: scripts may rely on them.
"detail" says more in a sentence. Behind them stand the words that say why an undo ran, why a
command is paused or aborted (stop), and why something waits for its agent (wait).
`

// explained is a row of the table: a reason beside states, or a word beside something else.
type explained struct {
	agentplanev1.Word
	states []string
}

func allExplained() (rows []explained) {
	for _, r := range agentplanev1.Reasons() {
		rows = append(rows, explained{agentplanev1.Word{Word: r.Word, Beside: "state", Means: r.Means, Next: r.Next}, reasonStates(r)})
	}
	for _, w := range agentplanev1.Words() {
		rows = append(rows, explained{w, []string{}})
	}
	return rows
}

// reasonsCmd is a topic of the help that is also read by programs.
func (a *app) reasonsCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "reasons [WORD]", Short: "explain the reasons that stand beside states, undos, stops and what waits", Long: reasonsHelp,
		Args: args(0, 1, "at most one word"), Annotations: is(offline),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var words []string
			seen := map[string]bool{}
			for _, r := range allExplained() {
				if !seen[r.Word.Word] {
					words = append(words, cobra.CompletionWithDesc(r.Word.Word, r.Means))
				}
				seen[r.Word.Word] = true
			}
			return words, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			var rows []explained
			var known []string
			for _, r := range allExplained() {
				known = append(known, r.Word.Word)
				if len(args) == 0 || r.Word.Word == args[0] {
					rows = append(rows, r)
				}
			}
			if len(rows) == 0 {
				return &failure{code: exitNotFound, err: fmt.Errorf("there is no reason %q%s", args[0], nearest(args[0], known)), hint: `see "agentctl reasons"`}
			}
			return a.printReasons(rows)
		},
	}
	c.SetHelpFunc(func(*cobra.Command, []string) { _ = a.writeReasonsHelp(a.stdout) })
	return c
}

func reasonStates(r agentplanev1.Reason) (words []string) {
	for _, s := range r.States {
		words = append(words, s.ShortName())
	}
	return words
}

func (a *app) printReasons(rows []explained) error {
	objects := make([]object, len(rows))
	for i, r := range rows {
		objects[i] = object{{"reason", r.Word.Word}, {"beside", r.Beside}, {"states", r.states}, {"means", r.Means}, {"next", r.Next}}
	}
	return printObjects(a, objects, func(w io.Writer) { writeReasons(w, rows) })
}

func writeReasons(w io.Writer, rows []explained) {
	writeTable(w, false, rows, []column[explained]{
		{"REASON", false, func(r explained) string { return r.Word.Word }},
		{"BESIDE", false, func(r explained) string {
			if len(r.states) > 0 {
				return strings.Join(r.states, ",")
			}
			return r.Beside
		}},
		{"MEANS", false, func(r explained) string {
			if r.Next != "" {
				return r.Means + "; " + r.Next
			}
			return r.Means
		}},
	})
}

func (a *app) writeReasonsHelp(w io.Writer) error {
	if _, err := fmt.Fprint(w, reasonsHelp+"\n"); err != nil {
		return err
	}
	writeReasons(w, allExplained())
	return nil
}
