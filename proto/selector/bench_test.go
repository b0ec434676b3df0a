package selector

import (
	"fmt"
	"strings"
	"testing"
)

const benchExpr = `label.env == "prod" && label.tier in ["web", "app"] && !(name startsWith "web-1") && fact.mem > 1000`

func BenchmarkMatch10000(b *testing.B) {
	targets := make([]Target, 10_000)
	for i := range targets {
		targets[i] = agent{
			id: fmt.Sprint("agent-", i), name: fmt.Sprint("web-", i), health: "ONLINE",
			labels: map[string]string{"env": "prod", "tier": []string{"web", "db"}[i%2]},
			facts:  map[string]string{"mem": "16777216000"},
		}
	}
	for _, bc := range []struct{ name, expr string }{
		{"typical", benchExpr},
		{"pattern", `name matches "^web-[0-9]*7$"`},
		{"one label", `label.tier == "db"`},
	} {
		b.Run(bc.name, func(b *testing.B) {
			s, err := Parse(bc.expr)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				n := 0
				for _, t := range targets {
					if s.Match(t) {
						n++
					}
				}
				if n == 0 || n == len(targets) {
					b.Fatalf("%d of %d match", n, len(targets))
				}
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(benchExpr); err != nil {
			b.Fatal(err)
		}
	}
}

// The costliest expressions that the bounds let through, on values of the length
// that labels and facts may have: all must stay far from hanging a node.
func BenchmarkCostliestMatch(b *testing.B) {
	target := agent{name: strings.Repeat("a", 255) + "b"}
	for name, expr := range map[string]string{
		"optional":     `name matches "` + strings.Repeat("a?", 110) + strings.Repeat("a", 30) + `$"`,
		"alternatives": `name matches "^(a|a|aa)*$"`,
		"stars":        `name matches "(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)x"`,
		"counted":      `name matches "(a?){120}c"`,
		"many":         strings.Repeat(`name matches "(a|aa)+$" || `, 30) + `name == "x"`,
		"contains":     strings.Repeat(`name contains "aaaaaaaac"||`, 127) + `name == "x"`,
	} {
		b.Run(name, func(b *testing.B) {
			s, err := Parse(expr)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				s.Match(target)
			}
		})
	}
}
