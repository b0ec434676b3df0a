package selector

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// agent is a Target of plain values.
type agent struct {
	id, name, health string
	labels, facts    map[string]string
}

func (a agent) ID() string     { return a.id }
func (a agent) Name() string   { return a.name }
func (a agent) Health() string { return a.health }
func (a agent) Label(name string) (string, bool) {
	v, ok := a.labels[name]
	return v, ok
}

func (a agent) Fact(name string) (string, bool) {
	v, ok := a.facts[name]
	return v, ok
}

var web = agent{
	id: "0198-web", name: "web-1", health: "ONLINE",
	labels: map[string]string{"env": "prod", "tier": "web", "empty": "", "app.example.com/role": "front", "odd name": "yes", "rack": "7"},
	facts:  map[string]string{"mem_total_bytes": "16777216000", "os": "linux", "kernel": "6.18.2", "load": "0.5", "weird": "NaN", "hex": "0x10"},
}

func TestMatch(t *testing.T) {
	for expr, want := range map[string]bool{
		`all`:                                  true,
		`not all`:                              false,
		`!all || all`:                          true,
		`id == "0198-web"`:                     true,
		`name == 'web-1'`:                      true,
		`name != "web-1"`:                      false,
		`label.env == "prod"`:                  true,
		`label["env"] == "prod"`:               true,
		`label["odd name"] == "yes"`:           true,
		`label.app.example.com/role=="front"`:  true,
		`label.env != "prod"`:                  false,
		`label.none == ""`:                     true,
		`label.none != "x"`:                    true,
		`has label.none`:                       false,
		`has label.empty`:                      true,
		`has fact["os"]`:                       true,
		`! has label.none`:                     true,
		`label.tier in ["db", "web"]`:          true,
		`label.tier not in ["db", "web"]`:      false,
		`label.tier not in ["db"]`:             true,
		`not label.tier in ["db"]`:             true,
		`name matches "^web-[0-9]+$"`:          true,
		"name matches `^web-\\d$`":             true,
		`name matches "eb"`:                    true,
		`name matches "^eb"`:                   false,
		`name matches '(?i)WEB'`:               true,
		`name contains "b-"`:                   true,
		`name startsWith "web"`:                true,
		`name endsWith "web"`:                  false,
		`health == "ONLINE"`:                   true,
		`health == "online"`:                   true,
		`health in ["down", "suspect"]`:        false,
		`health != "Down"`:                     true,
		`fact.mem_total_bytes > 8e9`:           true,
		`fact.mem_total_bytes > 16777216000`:   false,
		`fact.mem_total_bytes >= 16777216000`:  true,
		`fact.mem_total_bytes == 1.6777216e10`: true,
		`fact.mem_total_bytes < -1`:            false,
		`fact.load <= .5`:                      true,
		`fact.load in [1, 0.50]`:               true,
		`fact.load not in [1, 2]`:              true,
		`fact.os > 1`:                          false,
		`fact.os <= 1`:                         false,
		`fact.os != 1`:                         true,
		`fact.none == 0`:                       false,
		`fact.none not in [0]`:                 true,
		`fact.weird == 1 || fact.weird < 1`:    false,
		`fact.hex == 16`:                       false,
		`fact.kernel == "6.18.2"`:              true,
		`label.env=="prod"&&label.tier=="db"`:  false,
		`label.env=="prod" and label.tier=="db" or name=="web-1"`:   true,
		`label.env=="prod" and (label.tier=="db" or name=="web-2")`: false,
		`name=="x" or name=="y" and all`:                            false,
		`name == "web-1" or all and not all`:                        true,
		"name\n==\t\"web-1\"":                                       true,
		`name == "web\x2d1"`:                                        true,
		`!!has label.env`:                                           true,
	} {
		s, err := Parse(expr)
		if err != nil {
			t.Errorf("Parse(%s): %v", expr, err)
			continue
		}
		if got := s.Match(web); got != want {
			t.Errorf("%s = %v, want %v", expr, got, want)
		}
		again, err := Parse(s.String())
		if err != nil || again.String() != s.String() {
			t.Errorf("Parse(%s) has the canonical form %s, which parses as %v, %v", expr, s, again, err)
		}
	}
}

// Values are bytes: an escape gives one that is no UTF-8, and it stays that.
func TestEscapesGiveBytes(t *testing.T) {
	s, err := Parse(`name == "\xff\u00ff"`)
	if err != nil {
		t.Fatal(err)
	}
	if !s.Match(agent{name: "\xff\u00ff"}) || s.Match(agent{name: "\u00ff\u00ff"}) {
		t.Errorf("%s does not match its own bytes", s)
	}
}

func TestParseShort(t *testing.T) {
	for _, tc := range []struct{ short, long string }{
		{"env=prod", `label.env == "prod"`},
		{"env==prod,tier!=db", `label.env == "prod" && label.tier != "db"`},
		{" env = prod , tier != db ", `label.env == "prod" && label.tier != "db"`},
		{"rack", `has label.rack`},
		{"!rack,env=", `!has label.rack && label.env == ""`},
		{"zone in (b, a,b)", `label.zone in ["a", "b"]`},
		{"os notin (windows)", `label.os not in ["windows"]`},
		{"app.example.com/role=front-end_2", `label.app.example.com/role == "front-end_2"`},
		{"in=notin", `label.in == "notin"`},
	} {
		s, err := ParseShort(tc.short)
		if err != nil {
			t.Errorf("ParseShort(%s): %v", tc.short, err)
			continue
		}
		if s.String() != tc.long {
			t.Errorf("ParseShort(%s) = %s, want %s", tc.short, s, tc.long)
		}
		if again, err := Parse(s.String()); err != nil || again.String() != tc.long {
			t.Errorf("Parse(%s) = %v, %v", s, again, err)
		}
	}
}

func TestCanonicalForm(t *testing.T) {
	for _, tc := range []struct{ expr, want string }{
		{`label["env"]=='prod'`, `label.env == "prod"`},
		{"name matches `\\d`", `name matches "\\d"`},
		{`((name=="a")) and ((name=="b" or name=="c"))`, `name == "a" && (name == "b" || name == "c")`},
		{`(name=="a" && name=="b") && name=="c"`, `name == "a" && name == "b" && name == "c"`},
		{`(name=="a" && name=="b") or name=="c"`, `name == "a" && name == "b" || name == "c"`},
		{`not name=="a"`, `!(name == "a")`},
		{`not (has label.x)`, `!has label.x`},
		{`not (has label.x or all)`, `!(has label.x || all)`},
		{`label.x in ["b","a","b"]`, `label.x in ["a", "b"]`},
		{`fact.x in [2,1,1.0]`, `fact.x in [1, 2]`},
		{`fact.x > 8000000000`, `fact.x > 8e+09`},
		{`fact.x == -0`, `fact.x == 0`},
		{`health in ["Down","online"]`, `health in ["DOWN", "ONLINE"]`},
		{`has label["a b"]`, `has label["a b"]`},
		{`has label["a."]`, `has label["a."]`},
	} {
		s, err := Parse(tc.expr)
		if err != nil {
			t.Errorf("Parse(%s): %v", tc.expr, err)
			continue
		}
		if s.String() != tc.want {
			t.Errorf("Parse(%s) = %s, want %s", tc.expr, s, tc.want)
		}
	}
	if s, err := Parse("all"); err != nil || s.String() != All().String() {
		t.Errorf("All() = %s, Parse(all) = %v, %v", All(), s, err)
	}
}

func TestErrorsPointAtTheColumn(t *testing.T) {
	long := func(expr string) (*Selector, error) { return Parse(expr) }
	for _, tc := range []struct {
		parse  func(string) (*Selector, error)
		expr   string
		column int
		want   string // a part of the reason
	}{
		{long, ``, 1, `write "all"`},
		{long, `  `, 1, `write "all"`},
		{long, `lable.env == "prod"`, 1, `unknown name "lable.env"; known are id, name, health, label.NAME and fact.NAME; did you mean "label"?`},
		{long, `all && os == "linux"`, 8, `unknown name "os"; known are`},
		{long, `nmae == "x"`, 1, `did you mean "name"?`},
		{long, `label == "x"`, 1, `label needs a name: write label.NAME or label["NAME"]`},
		{long, `label. == "x"`, 1, `does not end like a name`},
		{long, `label["env" == "x"`, 13, `"==" stands where "]" is expected`},
		{long, `label[env] == "x"`, 7, `quoted name is expected`},
		{long, `label[""] == "x"`, 7, `quoted name is expected`},
		{long, `id.x == "x"`, 1, `id has no parts`},
		{long, `has name`, 5, `every agent has name`},
		{long, `label.env`, 10, `the end stands where an operator is expected after label.env; to ask whether it is there write: has label.env`},
		{long, `label.env =~ "p"`, 11, `"=~" is not an operator: write matches "REGEXP"; known are ` + knownOperators},
		{long, `label.env = "prod"`, 11, `"=" is not an operator: write "=="`},
		{long, `all & all`, 5, `write "&&"`},
		{long, `label.env == prod`, 14, `a text stands in quotes`},
		{long, `label.env == "prod`, 14, `has no closing "`},
		{long, `label.env like "x"`, 11, `unknown operator "like"`},
		{long, `name startswith "x"`, 6, `did you mean "startsWith"?`},
		{long, `name not == "x"`, 6, `"not" stands before what it negates`},
		{long, `name in "x"`, 9, `write in ["a", "b"]`},
		{long, `name in []`, 10, `a value is expected`},
		{long, `name in ["a" "b"]`, 14, `"," or "]" is expected`},
		{long, `name in ["a", 1]`, 15, `a list of the other kind`},
		{long, `name in ["a",`, 14, `a value is expected`},
		{long, `name in ["a"`, 9, `never closed`},
		{long, `(all`, 1, `this "(" is never closed`},
		{long, `all)`, 4, `")" stands where "&&", "||" or the end is expected`},
		{long, `all AND all`, 5, `did you mean "and"?`},
		{long, `(all all)`, 6, `"&&", "||" or ")" is expected`},
		{long, `all &&`, 7, `the end stands where a name is expected`},
		{long, `"x" == name`, 1, `a name is expected`},
		{long, `label.rack == 7`, 15, `write "7" in quotes; only facts`},
		{long, `fact.mem > "8e9"`, 12, `compares numbers`},
		{long, `fact.mem contains 8`, 19, `compares texts`},
		{long, `fact.mem > 8GiB`, 12, `"8GiB" is not a number`},
		{long, `fact.mem > 1e999`, 12, `"1e999" is not a number`},
		{long, `health == "onlin"`, 11, `unknown health "onlin"; known are ONLINE, SUSPECT, RECONNECTING, DOWN, FLAPPING, LEFT, QUARANTINED; did you mean "ONLINE"?`},
		{long, `health startsWith "O"`, 8, `health is compared by ==`},
		{long, `name matches "("`, 14, `is not a pattern: missing closing )`},
		{long, `name matches "\d"`, 15, `double the backslash`},
		{long, `name == "ü" && nmae == "x"`, 16, `unknown name "nmae"`},
		{long, "all \xff", 5, `not UTF-8`},
		{long, `now() > 3`, 1, `unknown name "now"`},
		{long, `name == "x"; all`, 12, `";" has no meaning here`},
		{ParseShort, ``, 1, `use --on all`},
		{ParseShort, ` `, 1, `use --on all`},
		{ParseShort, `env=prod,`, 10, `the end stands where the name of a label`},
		{ParseShort, `=prod`, 1, `the name of a label`},
		{ParseShort, `env=prod tier=db`, 5, `is a comma missing`},
		{ParseShort, `env="prod"`, 5, `no quotes`},
		{ParseShort, `!env=prod`, 5, `write env!=VALUE`},
		{ParseShort, `zone in a`, 9, `a list in parentheses`},
		{ParseShort, `zone in (a`, 9, `never closed`},
		{ParseShort, `zone in ()`, 10, `a value is expected`},
		{ParseShort, `zone ni (a)`, 6, `did you mean "in"?`},
		{ParseShort, `zone in (a) b`, 13, `"," or the end is expected`},
		{ParseShort, `env=a)`, 6, `"," or the end is expected`},
		{ParseShort, `label.env=prod`, 1, `without "label."`},
		{ParseShort, `env>5`, 4, `is expected`},
	} {
		_, err := tc.parse(tc.expr)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("%s: error %v, want a SyntaxError with %q", tc.expr, err, tc.want)
			continue
		}
		if syntax.Column() != tc.column || !strings.Contains(syntax.Reason, tc.want) {
			t.Errorf("%s\n got column %d: %s\nwant column %d: %s", tc.expr, syntax.Column(), syntax.Reason, tc.column, tc.want)
		}
	}
}

func TestCaretStandsBelowTheColumn(t *testing.T) {
	_, err := Parse("name == \"ü\"\n&& lable.env == \"prod\"")
	var syntax *SyntaxError
	if !errors.As(err, &syntax) {
		t.Fatalf("error is %v", err)
	}
	const want = "name == \"ü\" && lable.env == \"prod\"\n" +
		"               ^"
	if syntax.Caret() != want {
		t.Errorf("Caret:\n%s\nwant:\n%s", syntax.Caret(), want)
	}

	_, err = Parse(strings.Repeat(`name == "a" || `, 20) + `oops` + strings.Repeat(` || name == "a"`, 20))
	if !errors.As(err, &syntax) {
		t.Fatalf("error is %v", err)
	}
	expr, caret, _ := strings.Cut(syntax.Caret(), "\n")
	if len(expr) > 80 || len(caret) > 80 || !strings.HasPrefix(expr[len(caret)-1:], "oops") {
		t.Errorf("Caret of a long expression:\n%s", syntax.Caret())
	}
}

func TestBounds(t *testing.T) {
	nest := func(n int) string { return strings.Repeat("(", n) + "all" + strings.Repeat(")", n) }
	for _, tc := range []struct {
		name string
		expr string
		want string // part of the error; none when it must be taken
	}{
		{"the deepest nesting", nest(MaxDepth), ""},
		{"one deeper", nest(MaxDepth + 1), "nest deeper than 32"},
		{"the most negations", strings.Repeat("!", MaxDepth) + "all", ""},
		{"one negation more", strings.Repeat("!", MaxDepth+1) + "all", "nest deeper than 32"},
		{"a bare test below the most negations", strings.Repeat("!", MaxDepth) + `id=="a"`, "nest deeper than 32"},
		{"the most terms", strings.Repeat("all||", MaxTerms/2-1) + "!all", ""},
		{"one term more", strings.Repeat("all||", MaxTerms/2-1) + "!!all", "more than 256"},
		{"the longest", `name == "` + strings.Repeat("x", MaxBytes-10) + `"`, ""},
		{"one byte more", `name == "` + strings.Repeat("x", MaxBytes-9) + `"`, "has 4097 bytes, at most 4096"},
		{"longer in the canonical form only", "name == `" + strings.Repeat("\x00", 2000) + "`", "has 8010 bytes, at most 4096"},
		{"a pattern that blows up", `name matches "(a{30}){30}"`, "at most 512 is allowed"},
		{"a pattern beyond what RE2 takes", `name matches "((a{100}){100}){100}"`, "is not a pattern"},
		{"patterns that are too large together", `name matches "a{300}" || name matches "b{300}"`, "at most 512 is allowed"},
		{"a pattern of many bytes", `name matches "` + strings.Repeat("a", 257) + `"`, "has 257 bytes"},
		{"parentheses without end", strings.Repeat("(", MaxBytes), "nest deeper"},
		{"brackets without end", "name in " + strings.Repeat("[", 1000), "a value is expected"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := Parse(tc.expr)
			switch {
			case tc.want == "" && err != nil:
				t.Fatalf("refused: %v", err)
			case tc.want == "":
				if _, err := Parse(s.String()); err != nil {
					t.Fatalf("the canonical form is refused: %v", err)
				}
			case err == nil || !strings.Contains(err.Error(), tc.want):
				t.Fatalf("error %v, want %q", err, tc.want)
			}
		})
	}
	if _, err := ParseShort(strings.Repeat("a,", MaxTerms/2-1) + "a"); err != nil {
		t.Errorf("short form with the most terms: %v", err)
	}
	if _, err := ParseShort(strings.Repeat("a,", MaxTerms/2) + "a"); err == nil {
		t.Error("short form with too many terms was taken")
	}
}

func TestSelectorIsSafeForConcurrentUse(t *testing.T) {
	s, err := Parse(`name matches "^web-[0-9]+$" && fact.mem_total_bytes > 8e9`)
	if err != nil {
		t.Fatal(err)
	}
	wrong := make(chan string, 8)
	for g := range 8 {
		go func() {
			for i := range 200 {
				if !s.Match(web) || s.Match(agent{name: fmt.Sprintf("db-%d", i)}) {
					wrong <- fmt.Sprintf("goroutine %d, round %d", g, i)
					return
				}
			}
			wrong <- ""
		}()
	}
	for range 8 {
		if w := <-wrong; w != "" {
			t.Error(w)
		}
	}
}

func TestAsksHealth(t *testing.T) {
	for expr, want := range map[string]bool{
		"all":                                  false,
		`health == "DOWN"`:                     true,
		`label.health == "DOWN"`:               false,
		`id == "a" || !(health in ["ONLINE"])`: true,
		`has label.x && fact.n > 3`:            false,
		`name == "a" && (id == "b" || health != "LEFT")`: true,
	} {
		s, err := Parse(expr)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.AsksHealth(); got != want {
			t.Errorf("AsksHealth(%s) = %v, want %v", expr, got, want)
		}
	}
}
