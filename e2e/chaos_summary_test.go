package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"slices"
	"text/tabwriter"
	"time"
)

// failovers are, for each fault of the kind, the time to the first acknowledgement of
// a submission that began after it.
func failovers(h history, kind string) []time.Duration {
	var all []time.Duration
	for _, f := range h.faults {
		if f.kind != kind || !f.live {
			continue
		}
		first := time.Duration(-1)
		for _, s := range h.submissions {
			if s.outcome != acknowledged || s.began.Before(f.at) {
				continue
			}
			if d := s.ended.Sub(f.at); first < 0 || d < first {
				first = d
			}
		}
		if first >= 0 {
			all = append(all, first)
		}
	}
	slices.Sort(all)
	return all
}

// quantile is a value of a sorted list.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)].Round(time.Millisecond)
}

func summary(h history, b *breaker) string {
	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	row := func(what string, value any) { fmt.Fprintf(w, "  %s\t%v\n", what, value) }
	for _, kind := range kinds {
		done, live := 0, 0
		for _, f := range h.faults {
			if f.kind == kind {
				done++
				if f.live {
					live++
				}
			}
		}
		row(kind, fmt.Sprintf("%d, of them %d live", done, live))
	}
	row("agents killed while programs ran", b.midRun)
	row("supervisors killed with them", b.orphans)
	row("agents' streams on other nodes than the one killed", fmt.Sprintf("%d, of them %d kept", b.streams, b.kept))
	told := make(map[outcome]int)
	slowest := time.Duration(0)
	for _, s := range h.submissions {
		told[s.outcome]++
		if s.outcome == acknowledged {
			slowest = max(slowest, s.ended.Sub(s.began))
		}
	}
	row("commands acknowledged", told[acknowledged])
	row("  slowest", slowest.Round(time.Millisecond))
	row("outcome unknown", told[unknown])
	row("known not to be done", told[refused])
	for n, s := range slices.DeleteFunc(slices.Clone(h.submissions), func(s submission) bool { return s.outcome != refused }) {
		if n == 3 {
			break
		}
		row("  like", s.problem)
	}
	endings := make(map[string]int)
	for _, c := range h.commands {
		for _, i := range c.invocations {
			endings[i.state+" "+i.reason]++
		}
	}
	for _, ending := range slices.Sorted(maps.Keys(endings)) {
		row("invocations "+ending, endings[ending])
	}
	row("attempts started, by the programs' own writing", len(h.starts))
	for _, kind := range []string{killLeader, killAll, pauseLeader} {
		all := failovers(h, kind)
		row("next acknowledgement after: "+kind, fmt.Sprintf("median %v, p95 %v, longest %v, of %d",
			quantile(all, 0.5), quantile(all, 0.95), quantile(all, 1), len(all)))
	}
	_ = w.Flush() // to memory
	return text.String()
}
