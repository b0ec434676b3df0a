package operator

import (
	"slices"
	"testing"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/selector"
)

func TestMatchingMeansWhatAWalkOverTheFleetMeans(t *testing.T) {
	w := fleetWorld(t)
	w.agent("a == 1", `a" || name == "b`, false)
	v, now := w.m.View(), w.now.UnixNano()
	for _, expr := range []string{
		`id == "a1"`, `name == "twin"`, `name == "nobody"`, `id == "a1" || id == "a2"`, `name == "twin" && id == "a3"`, `id != "a1"`,
		`!(name == "twin")`, `id == "a == 1"`, `name == "a\" || name == \"b"`, `label.env == "prod"`, `health == "ONLINE"`, "all",
	} {
		sel, err := selector.Parse(expr)
		if err != nil {
			t.Fatal(err)
		}
		var got, want []string
		for a := range matching(v, sel, now) {
			got = append(got, a.GetId())
		}
		v.Agents()(func(a *raftlogv1.Agent) bool {
			if sel.Match(target{view: v, agent: a, now: now}) {
				want = append(want, a.GetId())
			}
			return true
		})
		if !slices.Equal(got, want) {
			t.Errorf("%s means %q, want %q", expr, got, want)
		}
	}
}
