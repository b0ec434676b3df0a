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
"detail" says more in a sentence.
`

// reasonsCmd is a topic of the help that is also read by programs.
func (a *app) reasonsCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "reasons [WORD]", Short: "explain the reasons that stand beside the states of invocations", Long: reasonsHelp,
		Args: args(0, 1, "at most one word"), Annotations: is(offline),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var words []string
			for _, r := range agentplanev1.Reasons() {
				words = append(words, cobra.CompletionWithDesc(r.Word, r.Means))
			}
			return words, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			var rows []agentplanev1.Reason
			var known []string
			for _, r := range agentplanev1.Reasons() {
				known = append(known, r.Word)
				if len(args) == 0 || r.Word == args[0] {
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

func reasonStates(r agentplanev1.Reason) string {
	var words []string
	for _, s := range r.States {
		words = append(words, s.ShortName())
	}
	return strings.Join(words, ",")
}

func (a *app) printReasons(rows []agentplanev1.Reason) error {
	objects := make([]object, len(rows))
	for i, r := range rows {
		objects[i] = object{{"reason", r.Word}, {"states", strings.Split(reasonStates(r), ",")}, {"means", r.Means}, {"next", r.Next}}
	}
	return printObjects(a, objects, func(w io.Writer) { writeReasons(w, rows) })
}

func writeReasons(w io.Writer, rows []agentplanev1.Reason) {
	writeTable(w, false, rows, []column[agentplanev1.Reason]{
		{"REASON", false, func(r agentplanev1.Reason) string { return r.Word }},
		{"BESIDE", false, reasonStates},
		{"MEANS", false, func(r agentplanev1.Reason) string {
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
	writeReasons(w, agentplanev1.Reasons())
	return nil
}
