package selector

import (
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// twin is an expression as a tree that knows how it may be written and, in the
// slowest and most obvious way, what it means. It shares nothing with the parser.
type twin struct {
	op     string // all, not, and, or, has, or an operator of a term
	kids   []twin
	field  string // id, name, health, label, fact
	name   string
	texts  []string
	number bool // the texts are numbers
}

var (
	twinNames   = []string{"env", "tier", "a-b", "x.y/z", "odd name", "no\"quote", "ünder"}
	twinValues  = []string{"", "prod", "pro", "web", "p\\d", "it's", "ü", "a\nb", "7", "1e1", "10.0", "-3", "x7"}
	twinNumbers = []string{"7", "10", "1e1", "-3", "0", "-0", "7.5", ".5"}
	twinRegexps = []string{"^pro", "o", "^web$", "[0-9]+", "^$", "(?i)PROD", "\\d", "a|ü"}
)

func drawTwin(t *rapid.T, depth int) twin {
	op := "term"
	if depth > 0 {
		op = rapid.SampledFrom([]string{"term", "term", "not", "and", "or"}).Draw(t, "node")
	}
	switch op {
	case "not":
		return twin{op: op, kids: []twin{drawTwin(t, depth-1)}}
	case "and", "or":
		n := twin{op: op}
		for range rapid.IntRange(2, 3).Draw(t, "parts") {
			n.kids = append(n.kids, drawTwin(t, depth-1))
		}
		return n
	}
	n := twin{field: rapid.SampledFrom([]string{"id", "name", "health", "label", "fact", "fact", "label"}).Draw(t, "field")}
	ops := []string{"==", "!=", "in", "not in"}
	switch n.field {
	case "label", "fact":
		n.name = rapid.SampledFrom(twinNames).Draw(t, "name")
		ops = append(ops, "has", "all")
		fallthrough
	case "id", "name":
		ops = append(ops, "contains", "startsWith", "endsWith", "matches")
	}
	values := twinValues
	if n.field == "health" {
		values = healthStates
	}
	if n.number = n.field == "fact" && rapid.Bool().Draw(t, "number"); n.number {
		ops = []string{"==", "!=", "<", "<=", ">", ">=", "in", "not in"}
		values = twinNumbers
	}
	switch n.op = rapid.SampledFrom(ops).Draw(t, "op"); n.op {
	case "in", "not in":
		n.texts = rapid.SliceOfN(rapid.SampledFrom(values), 1, 4).Draw(t, "list")
	case "matches":
		n.texts = []string{rapid.SampledFrom(twinRegexps).Draw(t, "pattern")}
	default:
		n.texts = []string{rapid.SampledFrom(values).Draw(t, "value")}
	}
	return n
}

// write writes the tree in one of its many spellings.
func (n twin) write(t *rapid.T) string {
	pick := func(choices ...string) string { return rapid.SampledFrom(choices).Draw(t, "spelling") }
	space := pick(" ", "  ", "\t", "\n ")
	quote := func(s string) string {
		switch pick(`"`, "'", "`") {
		case "'":
			return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
		case "`":
			if !strings.Contains(s, "`") {
				return "`" + s + "`"
			}
		}
		return strconv.Quote(s)
	}
	var out string
	switch n.op {
	case "all":
		out = "all"
	case "not":
		out = pick("!", "! ", "not ") + n.kids[0].write(t)
	case "and", "or":
		word := map[string]string{"and": "&&", "or": "||"}[n.op]
		var parts []string
		for _, k := range n.kids {
			parts = append(parts, k.write(t))
		}
		out = "(" + strings.Join(parts, pick(" "+n.op+space, word, " "+word+" ")) + ")"
	case "has":
		out = "has " + n.writeField(t)
	default:
		var values []string
		for _, v := range n.texts {
			if !n.number {
				v = quote(v)
			}
			values = append(values, v)
		}
		value := values[0]
		if n.op == "in" || n.op == "not in" {
			value = "[" + strings.Join(values, pick(",", ", ")) + "]"
		}
		out = n.writeField(t) + space + n.op + pick(" ", "\t") + value
	}
	if pick("bare", "bare", "wrapped") == "wrapped" {
		out = "(" + out + " )"
	}
	return out
}

func (n twin) writeField(t *rapid.T) string {
	if n.field != "label" && n.field != "fact" {
		return n.field
	}
	if strings.ContainsAny(n.name, " \"ü") || rapid.Bool().Draw(t, "bracket") {
		return n.field + "[" + strconv.Quote(n.name) + "]"
	}
	return n.field + "." + n.name
}

// means is the meaning of the tree for a.
func (n twin) means(a agent) bool {
	var kids []bool
	for _, k := range n.kids {
		kids = append(kids, k.means(a))
	}
	value := map[string]string{
		"id": a.id, "name": a.name, "health": a.health, "label": a.labels[n.name], "fact": a.facts[n.name],
	}[n.field]
	switch n.op {
	case "all":
		return true
	case "not":
		return !kids[0]
	case "and", "or":
		count := 0
		for _, k := range kids {
			if k {
				count++
			}
		}
		return n.op == "and" && count == len(kids) || n.op == "or" && count > 0
	case "has":
		_, label := a.labels[n.name]
		_, fact := a.facts[n.name]
		return n.field == "label" && label || n.field == "fact" && fact
	}
	if n.number {
		return n.meansNumber(value)
	}
	equal := 0
	for _, v := range n.texts {
		if v == value {
			equal++
		}
	}
	switch n.op {
	case "==", "in":
		return equal > 0
	case "!=", "not in":
		return equal == 0
	case "contains":
		return strings.Contains(value, n.texts[0])
	case "startsWith":
		return strings.Index(value, n.texts[0]) == 0
	case "endsWith":
		return strings.LastIndex(value, n.texts[0]) == len(value)-len(n.texts[0]) && len(n.texts[0]) <= len(value)
	case "matches":
		return regexp.MustCompile(n.texts[0]).FindStringIndex(value) != nil
	}
	panic("no such operator: " + n.op)
}

func (n twin) meansNumber(value string) bool {
	have, ok := new(big.Rat).SetString(value)
	equal, below, above := 0, false, false
	for _, v := range n.texts {
		want, _ := new(big.Rat).SetString(v)
		if ok {
			switch have.Cmp(want) {
			case 0:
				equal++
			case -1:
				below = true
			case 1:
				above = true
			}
		}
	}
	switch n.op {
	case "==", "in":
		return equal > 0
	case "!=", "not in":
		return equal == 0
	case "<":
		return below
	case "<=":
		return below || equal > 0
	case ">":
		return above
	case ">=":
		return above || equal > 0
	}
	panic("no such operator: " + n.op)
}

func drawAgent(t *rapid.T) agent {
	values := rapid.MapOfN(rapid.SampledFrom(twinNames), rapid.SampledFrom(twinValues), 0, len(twinNames))
	return agent{
		id:     rapid.SampledFrom(twinValues).Draw(t, "id"),
		name:   rapid.SampledFrom(twinValues).Draw(t, "agent name"),
		health: rapid.SampledFrom(healthStates).Draw(t, "health"),
		labels: values.Draw(t, "labels"),
		facts:  values.Draw(t, "facts"),
	}
}

func TestSelectorsMeanWhatTheirTwinsMean(t *testing.T) {
	matched, missed := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		n := drawTwin(t, 4)
		expr := n.write(t)
		s, err := Parse(expr)
		if err != nil {
			if len(expr) > 1000 { // then a bound may be in the way
				t.Skip()
			}
			t.Fatalf("Parse(%s): %v", expr, err)
		}
		canonical, err := Parse(s.String())
		if err != nil || canonical.String() != s.String() {
			t.Fatalf("%s\nhas the canonical form\n%s\nwhich parses as %v, %v", expr, s, canonical, err)
		}
		for range 8 {
			a := drawAgent(t)
			want := n.means(a)
			if want {
				matched++
			} else {
				missed++
			}
			if got := s.Match(a); got != want {
				t.Fatalf("%s\nof %+v = %v, want %v", expr, a, got, want)
			}
			if got := canonical.Match(a); got != want {
				t.Fatalf("canonical %s\nof %+v = %v, want %v", s, a, got, want)
			}
		}
	})
	if matched == 0 || missed == 0 {
		t.Errorf("%d matches and %d misses: the property saw one side only", matched, missed)
	}
}
