package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// printResults prints a finished command: the object, or what its programs
// printed, equal results together.
func (a *app) printResults(whole *agentplanev1.Command) error {
	return printOne(a, toObject(whole), func(w io.Writer) {
		writeGroups(w, whole.Invocations)
		if a.flags.output == "wide" {
			fmt.Fprintln(w)
			writeTable(w, true, whole.Invocations, a.invocationColumns(whole))
		}
	})
}

// group is the invocations that ended alike.
type group struct {
	like   *agentplanev1.Invocation
	agents []string
}

// groups puts equal results together, the largest group first.
func groups(invocations []*agentplanev1.Invocation) []*group {
	var all []*group
	byKey := map[string]*group{}
	for _, i := range invocations {
		key := fmt.Sprintf("%s %q %q", ending(i), shownText(i.Stdout), shownText(i.Stderr))
		g := byKey[key]
		if g == nil {
			g = &group{like: i}
			byKey[key] = g
			all = append(all, g)
		}
		g.agents = append(g.agents, client.AgentOf(i))
	}
	slices.SortStableFunc(all, func(x, y *group) int { return cmp.Compare(len(y.agents), len(x.agents)) })
	return all
}

// writeGroups writes each group of equal results once. What the largest group printed is
// the measure: of a text that is like it but for some lines only those are shown.
func writeGroups(w io.Writer, invocations []*agentplanev1.Invocation) {
	all := groups(invocations)
	for n, g := range all {
		if n > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "== %s %s: %s\n", count(len(g.agents), "agent"), printable(ending(g.like)), printable(strings.Join(g.agents, " ")))
		usual := &agentplanev1.Invocation{}
		if n > 0 {
			usual = all[0].like
		}
		writeText(w, "stdout", shownText(usual.Stdout), shownText(g.like.Stdout))
		if text := shownText(g.like.Stderr); text != "" {
			fmt.Fprintln(w, "-- stderr")
			writeText(w, "stderr", shownText(usual.Stderr), text)
		}
	}
}

// writeText writes a text, or how it differs from the usual one where that is shorter. It
// ends with a line break, whatever the program did.
func writeText(w io.Writer, name, usual, text string) {
	if usual == text && strings.Count(text, "\n") > 1 {
		fmt.Fprintf(w, "-- %s as in the first group\n", name)
		return
	}
	if diff, ok := shorter(usual, text); ok {
		fmt.Fprintf(w, "-- %s differs from the first group's\n", name)
		text = diff
	}
	if text == "" {
		return
	}
	fmt.Fprint(w, printableText(text))
	if !strings.HasSuffix(text, "\n") {
		fmt.Fprintln(w)
	}
}

// shorter returns how a text differs from the usual one, if that says more in less. Texts
// that are equal, or but for the line break at their end, do not differ.
func shorter(usual, text string) (string, bool) {
	if usual == "" || text == "" {
		return "", false
	}
	diff, ok := unified(usual, text)
	return diff, ok && diff != "" && strings.Count(diff, "\n") < len(lines(text))
}

// ending says how an invocation ended, or how far it is.
func ending(i *agentplanev1.Invocation) string {
	s := stateName(i.State)
	var why []string
	if code, exited := exitCode(i); exited && code != 0 {
		why = append(why, fmt.Sprintf("exit %d", code))
	}
	if i.Signal != 0 {
		why = append(why, fmt.Sprintf("signal %d", i.Signal))
	}
	switch i.Reason {
	case "", "exit": // that a program ended by itself needs no word
	case "undone", "undo_failed", "armed", "rearmed", "undoing": // how the undo stands says it
	case "signal":
		if i.Signal == 0 {
			why = append(why, i.Reason)
		}
	case "not_found", "not_executable", "bad_directory", "not_placed":
		why = append(why, i.Reason)
		if i.Detail != "" { // which program, directory or file
			why[len(why)-1] += ": " + i.Detail
		}
	default:
		why = append(why, i.Reason)
	}
	if n := len(i.Steps); n > 0 && i.Steps[n-1].State != agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED {
		why = append(why, fmt.Sprintf("step %d %s", i.Steps[n-1].Number, i.Steps[n-1].Name))
	}
	if i.Late {
		why = append(why, "late")
	}
	if u := i.GetUndo(); u.GetPhase() != agentplanev1.UndoPhase_UNDO_PHASE_CONFIRMED {
		if text := undoText(u); text != "" {
			why = append(why, text)
		}
	}
	if i.CancelTooLate {
		why = append(why, "cancel=too_late")
	}
	if len(why) > 0 {
		s += " (" + strings.Join(why, ", ") + ")"
	}
	return s
}

// shownText returns what is kept of an output, and in its middle how much is not.
func shownText(o *agentplanev1.Output) string {
	if o == nil {
		return ""
	}
	head, tail := string(o.Head), string(o.Tail)
	if hidden := hiddenBytes(o); hidden > 0 {
		if head != "" && !strings.HasSuffix(head, "\n") {
			head += "\n"
		}
		return fmt.Sprintf("%s[… %d bytes are not shown …]\n%s", head, hidden, tail)
	}
	return head + tail
}

func hiddenBytes(o *agentplanev1.Output) uint64 {
	kept := uint64(len(o.GetHead()) + len(o.GetTail()))
	return max(o.GetTotalBytes(), kept) - kept
}

func (a *app) invocationColumns(c *agentplanev1.Command) []column[*agentplanev1.Invocation] {
	columns := []column[*agentplanev1.Invocation]{
		{"AGENT", false, client.AgentOf},
		{"STATE", false, func(i *agentplanev1.Invocation) string { return stateName(i.State) }},
		{"EXIT", false, func(i *agentplanev1.Invocation) string {
			if code, exited := exitCode(i); exited {
				return fmt.Sprint(code)
			}
			return ""
		}},
		{"REASON", false, func(i *agentplanev1.Invocation) string {
			if i.StartsAt != 0 {
				return "starts after " + clock(i.StartsAt)
			}
			return i.Reason
		}},
		{"ENDED", false, func(i *agentplanev1.Invocation) string { return clock(i.EndedAt) }},
		{"WAVE", true, func(i *agentplanev1.Invocation) string {
			if i.Wave == 0 {
				return ""
			}
			return fmt.Sprint(i.Wave)
		}},
		{"INVOCATION", true, (*agentplanev1.Invocation).GetId},
		{"ATTEMPT", true, func(i *agentplanev1.Invocation) string { return fmt.Sprint(i.Attempt) }},
		{"FENCE", true, func(i *agentplanev1.Invocation) string { return fmt.Sprint(i.Fence) }},
		{"NODE", true, (*agentplanev1.Invocation).GetNodeId},
	}
	if c.GetUndo() != nil {
		columns = slices.Insert(columns, slices.IndexFunc(columns, func(c column[*agentplanev1.Invocation]) bool { return c.wide }), undoColumn())
	}
	return columns
}
