package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/agentplane/agentplane/proto/client"
)

// benchTarget is what one step measures.
type benchTarget interface {
	// What is the name of the step.
	What() string
	// Call makes one call for the client, one of so many, and returns when it is
	// answered. Each client is one goroutine.
	Call(ctx context.Context, client, clients int) error
	// Term is raft's, now.
	Term(ctx context.Context) (uint64, error)
	// Processes are the pids of those who serve the calls.
	Processes() []int
}

// measurement is one step of one round. Latencies are in milliseconds.
type measurement struct {
	What      string         `json:"what"`
	Clients   int            `json:"clients"`
	Round     int            `json:"round"`
	Calls     int            `json:"calls"` // successes begun after the warm-up
	PerSecond float64        `json:"per_second"`
	P50       float64        `json:"p50_ms"`
	P90       float64        `json:"p90_ms"`
	P99       float64        `json:"p99_ms"`
	Max       float64        `json:"max_ms"`
	CPU       float64        `json:"cpu_us"` // for each success, the warm-up included, of clients and servers together
	Errors    map[string]int `json:"errors"` // by reason, the warm-up included
	TermBegin uint64         `json:"term_begin"`
	TermEnd   uint64         `json:"term_end"`
}

// String is one line for people.
func (m measurement) String() string {
	s := fmt.Sprintf("%-6s %4d clients %8.0f/s  p50 %.1f  p90 %.1f  p99 %.1f  max %.1f ms  cpu %.0f us",
		m.What, m.Clients, m.PerSecond, m.P50, m.P90, m.P99, m.Max, m.CPU)
	if m.TermBegin != m.TermEnd {
		s += fmt.Sprintf("  term %d to %d", m.TermBegin, m.TermEnd)
	}
	if e := reasons(m.Errors); e != "" {
		s += "  errors: " + e
	}
	return s
}

// reasons lists counts by reason, in a fixed order.
func reasons(counts map[string]int) string {
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s=%d", reason, counts[reason]))
	}
	return strings.Join(parts, " ")
}

// tally is what one client has seen.
type tally struct {
	latencies []time.Duration
	within    int // of them ended within the measurement
	successes int // the warm-up included
	errors    map[string]int
}

// measureStep runs the clients through warm-up and measurement. Calls on their way at
// the end are waited for, so that what hangs is seen in the latencies.
func measureStep(ctx context.Context, t benchTarget, clients int, warmUp, duration time.Duration) (measurement, error) {
	m := measurement{What: t.What(), Clients: clients, Errors: make(map[string]int)}
	var err error
	if m.TermBegin, err = t.Term(ctx); err != nil {
		return m, fmt.Errorf("%s: ask for the term: %w", m.What, err)
	}
	cpu, err := processorTime(t.Processes())
	if err != nil {
		return m, fmt.Errorf("%s: %w", m.What, err)
	}
	from := time.Now().Add(warmUp)
	until := from.Add(duration)
	tallies := make([]tally, clients)
	var working sync.WaitGroup
	for i := range clients {
		working.Go(func() { tallies[i].run(ctx, t, i, clients, from, until) })
	}
	working.Wait()
	if ctx.Err() != nil {
		return m, context.Cause(ctx)
	}
	used, err := processorTime(t.Processes())
	if err != nil {
		return m, fmt.Errorf("%s: %w", m.What, err)
	}
	if m.TermEnd, err = t.Term(ctx); err != nil {
		return m, fmt.Errorf("%s: ask for the term: %w", m.What, err)
	}
	return m, m.count(tallies, duration, used-cpu)
}

// count turns what the clients have seen into figures.
func (m *measurement) count(tallies []tally, duration, cpu time.Duration) error {
	var all []time.Duration
	within, successes := 0, 0
	for _, t := range tallies {
		all = append(all, t.latencies...)
		within += t.within
		successes += t.successes
		for reason, n := range t.errors {
			m.Errors[reason] += n
		}
	}
	if len(all) == 0 {
		return fmt.Errorf("%s with %d clients: no call succeeded within %v (errors: %s)", m.What, m.Clients, duration, reasons(m.Errors))
	}
	slices.Sort(all)
	m.Calls, m.PerSecond = len(all), float64(within)/duration.Seconds()
	m.P50, m.P90, m.P99 = percentile(all, 50), percentile(all, 90), percentile(all, 99)
	m.Max = percentile(all, 100)
	m.CPU = float64(cpu.Microseconds()) / float64(successes)
	return nil
}

// benchErrorPause keeps a client whose calls are refused at once from taking the
// machine away from the others.
const benchErrorPause = 10 * time.Millisecond

func (y *tally) run(ctx context.Context, t benchTarget, client, clients int, from, until time.Time) {
	for ctx.Err() == nil {
		begin := time.Now()
		if !begin.Before(until) {
			return
		}
		err := t.Call(ctx, client, clients)
		end := time.Now()
		switch {
		case err != nil:
			if ctx.Err() != nil {
				return
			}
			y.fail(err)
			select {
			case <-time.After(benchErrorPause):
			case <-ctx.Done():
			}
		default:
			y.successes++
			if begin.Before(from) {
				continue
			}
			y.latencies = append(y.latencies, end.Sub(begin))
			if !end.After(until) {
				y.within++
			}
		}
	}
}

// fail counts an error by the stable word for it.
func (y *tally) fail(err error) {
	if y.errors == nil {
		y.errors = make(map[string]int)
	}
	e := client.AsError(err)
	reason := e.Reason
	if reason == "" {
		reason = e.Code.String()
	}
	if e.OutcomeUnknown {
		reason += "(unknown)"
	}
	y.errors[reason]++
}

// percentile of sorted durations, by the nearest rank, in milliseconds.
func percentile(sorted []time.Duration, p int) float64 {
	rank := (len(sorted)*p + 99) / 100
	return float64(sorted[max(rank, 1)-1]) / float64(time.Millisecond)
}
