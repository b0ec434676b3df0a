package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/timetable"
)

// inZone prints a time as the zone's clock shows it.
func inZone(ns int64, zone string) string {
	if ns == 0 {
		return "no time"
	}
	in, err := timetable.Zone(zone)
	if err != nil {
		in = time.UTC
	}
	return time.Unix(0, ns).In(in).Format(time.RFC3339)
}

// when says when a schedule fires, in the words in which it was made.
func when(s *agentplanev1.Schedule) string {
	zone := s.Spec.GetTimeZone()
	if s.Spec.GetAt() != 0 {
		return "once at " + inZone(s.Spec.GetAt(), zone)
	}
	text := s.Spec.GetCron()
	if zone != "" {
		text += " " + zone
	}
	if s.Spec.GetUntil() != 0 {
		text += " until " + inZone(s.Spec.GetUntil(), zone)
	}
	return text
}

// became says what became of a slot.
func became(f *agentplanev1.Firing) string {
	word := strings.ToLower(stateName(f.Result))
	var why []string
	switch {
	case f.Reason != "" && f.CommandId != "" && f.Detail != "": // it fired, but not for all
		why = append(why, f.Detail)
	case f.Reason != "":
		why = append(why, f.Reason)
	}
	if f.Missed > 0 {
		why = append(why, fmt.Sprintf("%s before it missed", count(int(f.Missed), "slot")))
	}
	if f.RunBy != "" {
		why = append(why, "by "+f.RunBy)
	}
	if len(why) > 0 {
		word += " (" + strings.Join(why, ", ") + ")"
	}
	return word
}

func (a *app) writeSchedule(w io.Writer, s *agentplanev1.Schedule) {
	zone := s.Spec.GetTimeZone()
	since := func(ns int64, by string) string {
		if ns == 0 {
			return ""
		}
		return fmt.Sprintf("%s by %s", clock(ns), by)
	}
	next, waits := "", ""
	if s.NextAt != 0 {
		next = inZone(s.NextAt, zone)
	}
	if s.WaitingAt != 0 {
		waits = inZone(s.WaitingAt, zone) + ", for the end of an earlier command"
	}
	pairs(w,
		[2]string{"name", s.Name}, [2]string{"state", s.State}, [2]string{"when", when(s)}, [2]string{"next", next}, [2]string{"waits", waits},
		[2]string{"what", s.Summary}, [2]string{"selector", s.Selector}, [2]string{"splay", splayText(s.Spec.GetCommand().GetSplay())},
		[2]string{"undo", termsText(termsOf(s.Spec.GetCommand().GetUndo()))}, [2]string{"locks", heldLocks(s.Spec.GetCommand())},
		[2]string{"overlap", strings.ToLower(stateName(s.Spec.GetOverlap()))}, [2]string{"missed", strings.ToLower(stateName(s.Spec.GetMissed()))},
		[2]string{"created", since(s.CreatedAt, s.CreatedBy)}, [2]string{"changed", since(s.ChangedAt, s.ChangedBy)},
		[2]string{"paused", since(s.PausedAt, s.PausedBy)}, [2]string{"ended", clock(s.EndedAt)},
		[2]string{"version", fmt.Sprint(s.Version)}, [2]string{"slots", fmt.Sprintf("%d fired, %d skipped", s.Fired, s.Skipped)},
	)
	if len(s.Firings) == 0 {
		return
	}
	fmt.Fprintln(w)
	writeTable(w, a.flags.output == "wide", s.Firings, []column[*agentplanev1.Firing]{
		{"SLOT", false, func(f *agentplanev1.Firing) string { return inZone(f.Slot, zone) }},
		{"RESULT", false, became},
		{"COMMAND", false, (*agentplanev1.Firing).GetCommandId},
		{"STATE", false, func(f *agentplanev1.Firing) string {
			if f.CommandId != "" && f.CommandState == "" {
				return "purged"
			}
			return f.CommandState
		}},
		{"COUNTS", false, func(f *agentplanev1.Firing) string { return counts(f.Counts) }},
		{"DETAIL", true, (*agentplanev1.Firing).GetDetail},
		{"AT", true, func(f *agentplanev1.Firing) string { return clock(f.At) }},
		{"INDEX", true, func(f *agentplanev1.Firing) string { return fmt.Sprint(f.Index) }},
	})
}
