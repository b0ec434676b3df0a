package main

import (
	"fmt"
	"io"
	"strings"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// rolloutPairs say how far a rollout is and what stops it, for "commands get".
func rolloutPairs(c *agentplanev1.Command) [][2]string {
	var all [][2]string
	if c.GetParentId() != "" {
		all = append(all, [2]string{"probes", fmt.Sprintf("wave %d of %s", c.GetParentWave(), c.GetParentId())})
	}
	if r := c.GetRollout(); r != nil {
		all = append(all, [2]string{"wave", waveText(c)}, [2]string{"failures", failuresText(r)})
	}
	if p := c.GetPaused(); p != nil {
		all = append(all, [2]string{"paused", fmt.Sprintf("since %s, %s", clock(p.GetAt()), stopText("stopped", p))})
	}
	if s := c.GetAborted(); s != nil {
		all = append(all, [2]string{"aborted", fmt.Sprintf("at %s, %s", clock(s.GetAt()), stopText("stopped", s))})
	}
	return all
}

// waveText says where a rollout is: wave 2 of 4, 25%, soaks until 12:00:05.
func waveText(c *agentplanev1.Command) string {
	r := c.GetRollout()
	n := int(r.GetWave())
	if n == 0 || n > len(r.GetWaves()) {
		return fmt.Sprintf("none of %d yet", len(r.GetWaves()))
	}
	w := r.GetWaves()[n-1]
	text := fmt.Sprintf("%d of %d (%s)", n, len(r.GetWaves()), w.GetShare())
	switch {
	case c.GetState() == agentplanev1.CommandState_COMMAND_STATE_DONE:
	case w.GetProbeId() != "" && !w.GetProbed():
		text += ", is probed"
	case r.GetSoakedAt() != 0 && r.GetSoak() > 0:
		text += ", soaks until " + clock(r.GetSoakedAt())
	}
	return text
}

func failuresText(r *agentplanev1.Rollout) string {
	text := fmt.Sprint(r.GetFailures())
	if r.MaxFailures != nil {
		text += fmt.Sprintf(" of at most %d", r.GetMaxFailures())
		if r.GetStrict() {
			text += ", strictly"
		}
		text += ", then " + strings.ToLower(stateName(r.GetOnBreach()))
	}
	if r.GetForgiven() > 0 {
		text += fmt.Sprintf("; %d forgiven", r.GetForgiven())
	}
	return text
}

func writeWaves(w io.Writer, wide bool, r *agentplanev1.Rollout) {
	type row struct {
		n int
		*agentplanev1.Wave
	}
	var rows []row
	for n, wv := range r.GetWaves() {
		rows = append(rows, row{n + 1, wv})
	}
	writeTable(w, wide, rows, []column[row]{
		{"WAVE", false, func(r row) string { return fmt.Sprint(r.n) }},
		{"SHARE", false, func(r row) string { return r.GetShare() }},
		{"AGENTS", false, func(r row) string { return fmt.Sprint(r.GetTargets()) }},
		{"RELEASED", false, func(r row) string { return clock(r.GetReleasedAt()) }},
		{"ENDED", false, func(r row) string { return clock(r.GetSettledAt()) }},
		{"PROBE", false, func(r row) string { return probeText(r.Wave) }},
		{"PROBED BY", true, func(r row) string { return r.GetProbeId() }},
	})
}

// probeText says how the probe of a wave has ended, and who has let the command go on all
// the same.
func probeText(w *agentplanev1.Wave) string {
	text := ""
	switch {
	case w.GetPassedOver():
		return "passed over: nobody is in it"
	case w.GetProbeFailed():
		text = "failed"
	case w.GetProbed():
		text = "succeeded"
	case w.GetProbeId() != "":
		text = "runs"
	}
	if w.GetOpenedBy() == "" {
		return text
	}
	return strings.TrimPrefix(text+"; resumed by "+w.GetOpenedBy(), "; ")
}

// stops tells once of each pause and abort that a watch brings, and what to type.
type stops struct {
	told   uint64
	paused bool
}

func (t *stops) take(say func(format string, args ...any), c *agentplanev1.Command) {
	if c == nil {
		return
	}
	switch p, aborted := c.GetPaused(), c.GetAborted(); {
	case p != nil && p.GetNumber() != t.told:
		t.told, t.paused = p.GetNumber(), true
		say("command %s is %s; what runs goes on", c.GetId(), stopText("paused", p))
		say("go on with: agentctl commands resume %s; or end it: agentctl commands abort %s", c.GetId(), c.GetId())
	case p == nil && t.paused && aborted == nil && c.GetState() == agentplanev1.CommandState_COMMAND_STATE_ACTIVE:
		t.paused = false
		say("command %s goes on", c.GetId())
	case aborted != nil && aborted.GetNumber() != t.told:
		t.told, t.paused = aborted.GetNumber(), false
		say("command %s is %s; what runs goes on", c.GetId(), stopText("aborted", aborted))
	}
}
