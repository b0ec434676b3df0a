package selector

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzParse: nothing panics; an error points inside the expression; what is taken
// has a canonical form that means the same and is its own canonical form.
func FuzzParse(f *testing.F) {
	for _, expr := range []string{
		"", "all", `label.env == "prod" && !(name startsWith "web-")`, `fact.mem > 8e9 or fact["x y"] in [1,2]`,
		"name matches `^web-\\d{1,3}$`", `health not in ["down", 'left']`, `!!!has label.a/b`, "env=prod,tier!=db,!x,a in (b,c)",
		`name == "\x00\u2028\"`, "((((", "label.env = \xff", `-1`, `fact.x >= -.5e-3`,
	} {
		f.Add(expr, "prod")
	}
	f.Fuzz(func(t *testing.T, expr, value string) {
		value = value[:min(len(value), 256)] // as long as labels and facts may be
		target := agent{id: value, name: value, health: "DOWN", labels: map[string]string{"env": value}, facts: map[string]string{"mem": value, "x": value}}
		for _, parse := range []func(string) (*Selector, error){Parse, ParseShort} {
			s, err := parse(expr)
			if err != nil {
				var syntax *SyntaxError
				if !errors.As(err, &syntax) || syntax.Offset < 0 || syntax.Offset > len(expr) {
					t.Fatalf("%q: error %#v", expr, err)
				}
				if utf8.ValidString(expr) && strings.Count(syntax.Caret(), "\n") != 1 {
					t.Fatalf("%q: Caret is %q", expr, syntax.Caret())
				}
				if strings.Contains(err.Error(), "\n") || len(err.Error()) > 1000 {
					t.Fatalf("%q: the error is not one short line: %q", expr, err)
				}
				continue
			}
			canonical, err := Parse(s.String())
			if err != nil || canonical.String() != s.String() {
				t.Fatalf("%q has the canonical form %q, which parses as %v, %v", expr, s, canonical, err)
			}
			if s.Match(target) != canonical.Match(target) {
				t.Fatalf("%q and its canonical form %q differ for %q", expr, s, value)
			}
		}
	})
}
