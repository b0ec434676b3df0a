package operator

import (
	"fmt"
	"testing"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// BenchmarkSubmit is one submission with everything but raft: for one agent of a
// thousand, by its name and by an expression.
func BenchmarkSubmit(b *testing.B) {
	w := newWorld(b)
	for n := range 1000 {
		w.agent(fmt.Sprintf("agent-%04d", n), fmt.Sprintf("web-%04d", n), false, label("env", "prod"))
	}
	for name, edit := range map[string]func(*agentplanev1.CommandSpec, int){
		"named":      func(s *agentplanev1.CommandSpec, n int) { s.Agents = []string{fmt.Sprintf("web-%04d", n%1000)} },
		"expression": func(s *agentplanev1.CommandSpec, n int) { s.Selector = fmt.Sprintf(`name == "web-%04d"`, n%1000) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				spec := w.spec("")
				edit(spec, n)
				w.submit(spec)
			}
		})
	}
}
