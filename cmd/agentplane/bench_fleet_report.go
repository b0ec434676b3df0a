package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// fanOut is one command for many agents. Times are in milliseconds, processor times in
// microseconds for each invocation.
type fanOut struct {
	Agents   int     `json:"agents"`
	Round    int     `json:"round"`
	Submit   float64 `json:"submit_ms"` // until it was acknowledged
	Total    float64 `json:"total_ms"`  // until its last result was seen
	Entries  int     `json:"entries"`   // of the replicated log
	NodesCPU float64 `json:"nodes_cpu_us"`
	FleetCPU float64 `json:"fleet_cpu_us"` // of this process: agents and operator
}

// String is one line for people.
func (m fanOut) String() string {
	return fmt.Sprintf("fan-out %5d agents  submit %.1f ms  last result %.0f ms  %d entries  cpu %.0f us in nodes, %.0f us here, for each",
		m.Agents, m.Submit, m.Total, m.Entries, m.NodesCPU, m.FleetCPU)
}

// canceled is one command that was canceled in the middle of its fan-out.
type canceled struct {
	Agents  int     `json:"agents"`
	Round   int     `json:"round"`
	Call    float64 `json:"call_ms"`  // until the cancel was acknowledged
	Total   float64 `json:"total_ms"` // from the cancel to the last end
	Started int     `json:"started"`  // by the agents' own witness
}

// String is one line for people.
func (m canceled) String() string {
	return fmt.Sprintf("cancel  %5d agents  acknowledged %.1f ms  all over %.0f ms  %d had started", m.Agents, m.Call, m.Total, m.Started)
}

// fleetReport is what bench fleet prints; its JSON is stable.
type fleetReport struct {
	Nodes      int            `json:"nodes"`
	Agents     int            `json:"agents"`
	AgentBytes int            `json:"agent_bytes"` // of this process, each
	Fail       float64        `json:"fail"`
	Mute       float64        `json:"mute"`
	Slow       float64        `json:"slow_seconds"`
	Rounds     int            `json:"rounds"`
	FanOuts    []fanOut       `json:"fan_outs"`
	Cancels    []canceled     `json:"cancels"`
	Medians    []fanOutMedian `json:"medians"`
	Alone      *aloneFigures  `json:"alone,omitempty"`

	exec, trips []time.Duration // sorted
}

// fanOutMedian is one size over all rounds.
type fanOutMedian struct {
	Agents      int     `json:"agents"`
	Submit      float64 `json:"submit_ms"`
	Total       float64 `json:"total_ms"`
	TotalMost   float64 `json:"total_ms_most"`
	Entries     float64 `json:"entries"`
	EntriesMost int     `json:"entries_most"`
	NodesCPU    float64 `json:"nodes_cpu_us"`
	FleetCPU    float64 `json:"fleet_cpu_us"`
}

// aloneFigures compares one real agent with os/exec, in milliseconds.
type aloneFigures struct {
	Calls   int     `json:"calls"`
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
	ExecP50 float64 `json:"exec_p50_ms"`
	ExecP99 float64 `json:"exec_p99_ms"`
}

func (r *fleetReport) summarize() {
	var sizes []int
	of := make(map[int][]fanOut)
	for _, m := range r.FanOuts {
		if !slices.Contains(sizes, m.Agents) {
			sizes = append(sizes, m.Agents)
		}
		of[m.Agents] = append(of[m.Agents], m)
	}
	r.Medians = nil
	for _, size := range sizes {
		column := func(f func(fanOut) float64) []float64 {
			var values []float64
			for _, m := range of[size] {
				values = append(values, f(m))
			}
			return values
		}
		totals := column(func(m fanOut) float64 { return m.Total })
		entries := column(func(m fanOut) float64 { return float64(m.Entries) })
		r.Medians = append(r.Medians, fanOutMedian{
			Agents: size, Submit: median(column(func(m fanOut) float64 { return m.Submit })),
			Total: median(totals), TotalMost: slices.Max(totals), Entries: median(entries), EntriesMost: int(slices.Max(entries)),
			NodesCPU: median(column(func(m fanOut) float64 { return m.NodesCPU })),
			FleetCPU: median(column(func(m fanOut) float64 { return m.FleetCPU })),
		})
	}
	r.Alone = r.alone()
}

func (r *fleetReport) alone() *aloneFigures {
	if len(r.trips) == 0 {
		return nil
	}
	return &aloneFigures{
		Calls: len(r.trips), P50: percentile(r.trips, 50), P99: percentile(r.trips, 99),
		ExecP50: percentile(r.exec, 50), ExecP99: percentile(r.exec, 99),
	}
}

func (r *fleetReport) aloneLine() string {
	a := r.alone()
	return fmt.Sprintf("alone   %d commands for a real agent: p50 %.1f  p99 %.1f ms; os/exec alone: p50 %.1f  p99 %.1f ms", a.Calls, a.P50, a.P99, a.ExecP50, a.ExecP99)
}

func (r *fleetReport) printJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func (r *fleetReport) print(w io.Writer) error {
	fmt.Fprintf(w, "%d nodes, %d simulated agents of %d KB each, %d rounds; medians, times in ms, processor time in us for each invocation\n\n",
		r.Nodes, r.Agents, r.AgentBytes>>10, r.Rounds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "agents\tsubmit\tlast result\tmost\tentries\tmost\tcpu of nodes\tcpu of agents\t")
	for _, m := range r.Medians {
		fmt.Fprintf(t, "%d\t%.1f\t%.0f\t%.0f\t%g\t%d\t%.0f\t%.0f\t\n", m.Agents, m.Submit, m.Total, m.TotalMost, m.Entries, m.EntriesMost, m.NodesCPU, m.FleetCPU)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, c := range r.Cancels {
		fmt.Fprintln(w, c)
	}
	if r.Alone == nil {
		return nil
	}
	_, err := fmt.Fprintln(w, r.aloneLine())
	return err
}
