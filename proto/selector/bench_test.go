package selector

import (
	"fmt"
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
