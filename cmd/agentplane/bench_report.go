package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// The names of the steps.
const (
	benchSubmit = "submit"
	benchBatch  = "batch"
	benchRead   = "read"
	benchBare   = "bare"
)

// benchSteps is what a round does, in this order.
var benchSteps = []string{benchSubmit, benchBatch, benchRead, benchBare}

// benchReport is what a run prints; its JSON is stable.
type benchReport struct {
	Nodes         int            `json:"nodes"`
	Agents        int            `json:"agents"`
	CommandBytes  int            `json:"command_bytes"`
	Through       string         `json:"through"`
	Seconds       float64        `json:"seconds"`
	WarmUpSeconds float64        `json:"warm_up_seconds"`
	Rounds        int            `json:"rounds"`
	Measurements  []measurement  `json:"measurements"`
	Medians       []benchSummary `json:"medians"`
	Ratios        []benchRatio   `json:"ratios"`
}

// benchSummary is one step over all rounds: medians, and the spread of the
// throughput.
type benchSummary struct {
	What        string         `json:"what"`
	Clients     int            `json:"clients"`
	PerSecond   float64        `json:"per_second"`
	Least       float64        `json:"per_second_least"`
	Most        float64        `json:"per_second_most"`
	P50         float64        `json:"p50_ms"`
	P90         float64        `json:"p90_ms"`
	P99         float64        `json:"p99_ms"`
	Max         float64        `json:"max_ms"` // the greatest of all rounds
	CPU         float64        `json:"cpu_us"` // for each call
	Errors      map[string]int `json:"errors"`
	TermChanges uint64         `json:"term_changes"` // during the measurements
}

// benchRatio compares submissions with the bare program, round by round.
type benchRatio struct {
	What    string  `json:"what"`
	Clients int     `json:"clients"`
	Ratio   float64 `json:"ratio"`
	Least   float64 `json:"ratio_least"`
	Most    float64 `json:"ratio_most"`
}

// stepKey tells steps apart.
type stepKey struct {
	what    string
	clients int
}

// summarize computes medians and ratios from the measurements.
func (r *benchReport) summarize() {
	r.Medians, r.Ratios = nil, []benchRatio{}
	steps := make(map[stepKey][]measurement)
	var order []stepKey
	for _, m := range r.Measurements {
		k := stepKey{m.What, m.Clients}
		if _, known := steps[k]; !known {
			order = append(order, k)
		}
		steps[k] = append(steps[k], m)
	}
	for _, k := range order {
		r.Medians = append(r.Medians, summaryOf(k, steps[k]))
	}
	for _, k := range order {
		bare := steps[stepKey{benchBare, k.clients}]
		if k.what != benchSubmit && k.what != benchBatch || len(bare) != len(steps[k]) {
			continue
		}
		var ratios []float64
		for i, m := range steps[k] {
			if bare[i].PerSecond > 0 {
				ratios = append(ratios, m.PerSecond/bare[i].PerSecond)
			}
		}
		if len(ratios) > 0 {
			r.Ratios = append(r.Ratios, benchRatio{k.what, k.clients, median(ratios), slices.Min(ratios), slices.Max(ratios)})
		}
	}
}

func summaryOf(k stepKey, all []measurement) benchSummary {
	column := func(f func(measurement) float64) []float64 {
		var values []float64
		for _, m := range all {
			values = append(values, f(m))
		}
		return values
	}
	rates := column(func(m measurement) float64 { return m.PerSecond })
	s := benchSummary{
		What: k.what, Clients: k.clients,
		PerSecond: median(rates), Least: slices.Min(rates), Most: slices.Max(rates),
		P50:    median(column(func(m measurement) float64 { return m.P50 })),
		P90:    median(column(func(m measurement) float64 { return m.P90 })),
		P99:    median(column(func(m measurement) float64 { return m.P99 })),
		Max:    slices.Max(column(func(m measurement) float64 { return m.Max })),
		CPU:    median(column(func(m measurement) float64 { return m.CPU })),
		Errors: make(map[string]int),
	}
	for _, m := range all {
		s.TermChanges += m.TermEnd - m.TermBegin
		for reason, n := range m.Errors {
			s.Errors[reason] += n
		}
	}
	return s
}

// median of at least one value; of an even number the mean of the two in the middle.
func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	middle := len(s) / 2
	if len(s)%2 == 1 {
		return s[middle]
	}
	return (s[middle-1] + s[middle]) / 2
}

func (r *benchReport) printJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func (r *benchReport) print(w io.Writer) error {
	fmt.Fprintf(w, "%d nodes, %d agents, commands of %d bytes through %s, %d rounds of %gs; medians, latencies in ms\n\n",
		r.Nodes, r.Agents, r.CommandBytes, r.Through, r.Rounds, r.Seconds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "step\tclients\tper second\tleast\tmost\tp50\tp90\tp99\tmax\tcpu us\tterm changes\terrors\t")
	for _, s := range r.Medians {
		errors := reasons(s.Errors)
		if errors == "" {
			errors = "0"
		}
		fmt.Fprintf(t, "%s\t%d\t%.0f\t%.0f\t%.0f\t%.1f\t%.1f\t%.1f\t%.1f\t%.0f\t%d\t%s\t\n",
			s.What, s.Clients, s.PerSecond, s.Least, s.Most, s.P50, s.P90, s.P99, s.Max, s.CPU, s.TermChanges, errors)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(r.Ratios) > 0 {
		fmt.Fprintln(w)
	}
	for _, x := range r.Ratios {
		if _, err := fmt.Fprintf(w, "%s / bare program at %d clients: %.0f %% (%.0f to %.0f)\n",
			x.What, x.Clients, 100*x.Ratio, 100*x.Least, 100*x.Most); err != nil {
			return err
		}
	}
	return nil
}
