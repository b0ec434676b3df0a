package e2e

import (
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// reasonHomes are the packages in which reasons of invocations begin.
var reasonHomes = []string{"fsm", "agent", "agent/execute", "controlplane/rollout", "controlplane/dispatch", "controlplane/operator"}

// reasonConstant is how constants that hold a reason of an attempt are called; those of
// LOST in the rollout have names of their own.
var reasonConstant = regexp.MustCompile(`^([rR]eason[A-Z]|NoContact$|NoAnswer$)`)

// reasonCalls are the functions that give an invocation a state, with the place of the
// reason among their arguments.
var reasonCalls = map[string]int{"move": 2, "loseClaims": 1}

// reasonMessages are the rows and mutations in which a reason of an attempt stands.
var reasonMessages = []string{"Transition", "LoseAttempt", "ReportAttempt"}

// reasonWords returns every word in the files of a package that may become the reason of
// an invocation or of a step, with where it stands. constants are those of the package.
func reasonWords(files map[string]*ast.File) map[string]string {
	constants := map[string]string{}
	for _, file := range files {
		for _, d := range file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			for _, s := range g.Specs {
				v := s.(*ast.ValueSpec)
				for i, name := range v.Names {
					if i < len(v.Values) {
						if text, ok := literal(v.Values[i]); ok {
							constants[name.Name] = text
						}
					}
				}
			}
		}
	}
	words := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		note := func(e ast.Expr, what string) {
			text, ok := literal(e)
			if id, isName := e.(*ast.Ident); isName && !ok {
				text, ok = constants[id.Name], true
			}
			if ok && text != "" {
				words[text] = fmt.Sprintf("%s, %s", filepath.Base(name), what)
			}
		}
		ast.Inspect(files[name], func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				for i, id := range n.Names {
					if reasonConstant.MatchString(id.Name) && i < len(n.Values) {
						note(n.Values[i], "the constant "+id.Name)
					}
				}
			case *ast.CallExpr:
				s, ok := n.Fun.(*ast.SelectorExpr)
				if place, known := reasonCalls[selected(s, ok)]; known && place < len(n.Args) {
					note(n.Args[place], "a call of "+s.Sel.Name)
				}
			case *ast.AssignStmt:
				noteAssigned(n, note)
			case *ast.CompositeLit:
				if s, ok := n.Type.(*ast.SelectorExpr); slices.Contains(reasonMessages, selected(s, ok)) {
					noteField(n, note)
				}
			}
			return true
		})
	}
	return words
}

func selected(s *ast.SelectorExpr, ok bool) string {
	if !ok {
		return ""
	}
	return s.Sel.Name
}

// noteAssigned notes what becomes a variable or a field that is called a reason.
func noteAssigned(n *ast.AssignStmt, note func(ast.Expr, string)) {
	if len(n.Lhs) != len(n.Rhs) {
		return
	}
	for i, l := range n.Lhs {
		switch l := l.(type) {
		case *ast.Ident:
			if l.Name == "reason" {
				note(n.Rhs[i], "what is assigned to reason")
			}
		case *ast.SelectorExpr:
			if x, ok := l.X.(*ast.Ident); ok && l.Sel.Name == "Reason" && x.Name != "o" { // o is an outcome
				note(n.Rhs[i], "what is assigned to a Reason")
			}
		}
	}
}

func noteField(n *ast.CompositeLit, note func(ast.Expr, string)) {
	for _, e := range n.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok {
			if key, ok := kv.Key.(*ast.Ident); ok && key.Name == "Reason" {
				note(kv.Value, "the Reason of a row")
			}
		}
	}
}

func literal(e ast.Expr) (string, bool) {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(l.Value)
	return text, err == nil
}

// notOfAttempts are words that the search takes for reasons of attempts and that are
// others': of the refusal of a session or a claim, of what waits for an agent, of a firing.
var notOfAttempts = []string{"not_ready", "budget", "exclusive", "locked", "no_lock", "overlap"}

// Who reads "reason" finds every word in one table: agentctl help reasons prints it.
func TestEveryReasonOfAnInvocationIsExplained(t *testing.T) {
	explained := map[string]bool{}
	for _, r := range agentplanev1.Reasons() {
		explained[r.Word] = true
	}
	found := map[string]bool{}
	for _, p := range listPackages(t) {
		home, _ := rel(p.ImportPath)
		if !slices.Contains(reasonHomes, home) {
			continue
		}
		words := reasonWords(parseFiles(t, p.Dir, p.GoFiles))
		for _, word := range slices.Sorted(maps.Keys(words)) {
			found[word] = true
			if !explained[word] && !slices.Contains(notOfAttempts, word) {
				t.Errorf("%s: %q is no row of agentplanev1.Reasons (%s)", home, word, words[word])
			}
		}
	}
	for word := range explained {
		if !found[word] {
			t.Errorf("nothing gives the reason %q any more: take it out of agentplanev1.Reasons", word)
		}
	}
	if len(found) < 20 {
		t.Errorf("only %d reasons were found: the search is blind", len(found))
	}
}

// wordConstant is how constants are called, in each package, that hold a word beside an undo,
// a stop or what waits.
var wordConstant = map[string]map[string]*regexp.Regexp{
	"agent/execute": {agentplanev1.BesideUndo: regexp.MustCompile(`^Cause[A-Z]`)},
	"proto/wave":    {agentplanev1.BesideStop: regexp.MustCompile(`^(MaxFailures|Strict)$`)},
	"fsm": {
		agentplanev1.BesideStop: regexp.MustCompile(`^(byOperators|gate[A-Z][a-z]+)$`),
		agentplanev1.BesideWait: regexp.MustCompile(`^Reason(Locked|Exclusive|Budget|NoLock)$`),
	},
}

func TestEveryWordBesideAnUndoAStopOrAWaitIsExplained(t *testing.T) {
	found := map[string]bool{}
	for _, p := range listPackages(t) {
		home, _ := rel(p.ImportPath)
		if wordConstant[home] == nil && home != "controlplane/operator" {
			continue
		}
		for _, file := range parseFiles(t, p.Dir, p.GoFiles) {
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.ValueSpec:
					for beside, name := range wordConstant[home] {
						if len(n.Values) == 1 && name.MatchString(n.Names[0].Name) {
							text, _ := literal(n.Values[0])
							found[beside+" "+text] = true
						}
					}
				case *ast.CompositeLit: // wait{reason: "a_word"}
					if id, ok := n.Type.(*ast.Ident); !ok || id.Name != "wait" || home != "controlplane/operator" {
						return true
					}
					for _, e := range n.Elts {
						if kv, ok := e.(*ast.KeyValueExpr); ok && fmt.Sprint(kv.Key) == "reason" {
							text, _ := literal(kv.Value)
							found[agentplanev1.BesideWait+" "+text] = true
						}
					}
				}
				return true
			})
		}
	}
	explained := map[string]bool{}
	for _, w := range agentplanev1.Words() {
		key := w.Beside + " " + w.Word
		if explained[key] || w.Means == "" || strings.HasSuffix(w.Means, ".") {
			t.Errorf("row %+v", w)
		}
		explained[key] = true
		if !found[key] {
			t.Errorf("nothing gives %q any more: take it out of agentplanev1.Words", key)
		}
	}
	for key := range found {
		if !explained[key] {
			t.Errorf("%q is no row of agentplanev1.Words", key)
		}
	}
}

func TestReasonsAreWordsAndEachStandsOnceBesideAState(t *testing.T) {
	word := regexp.MustCompile(`^[a-z][a-z_]*$`)
	seen := map[string]bool{}
	for _, r := range agentplanev1.Reasons() {
		if !word.MatchString(r.Word) || r.Means == "" || len(r.States) == 0 || strings.HasSuffix(r.Means, ".") {
			t.Errorf("row %+v", r)
		}
		for _, s := range r.States {
			key := s.ShortName() + " " + r.Word
			if seen[key] {
				t.Errorf("%s is explained twice", key)
			}
			seen[key] = true
		}
	}
}

func TestAReasonIsFoundWhereverItBegins(t *testing.T) {
	for text, want := range map[string]string{
		`const reasonNew = "a_word"`:                                          "a_word",
		`const ReasonNew = "a_word"`:                                          "a_word",
		`func f() { tx.move(i, s, "a_word", nil) }`:                           "a_word",
		`func f() { tx.loseClaims(a, "a_word", nil) }`:                        "a_word",
		`func f() { state, reason = x, "a_word" }`:                            "a_word",
		`func f() { row.Reason = "a_word" }`:                                  "a_word",
		`const lostWord = "a_word"; var _ = v1.LoseAttempt{Reason: lostWord}`: "a_word",
		`var _ = &v1.Transition{Reason: "a_word"}`:                            "a_word",
		`var _ = &v1.Session{Reason: "a_word"}`:                               "",
	} {
		got := slices.Collect(maps.Keys(reasonWords(map[string]*ast.File{"x.go": source(t, "package x\n"+text)})))
		if strings.Join(got, " ") != want {
			t.Errorf("%s: found %q, want %q", text, got, want)
		}
	}
}
