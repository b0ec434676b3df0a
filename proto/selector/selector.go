package selector

import (
	"strings"
)

// Bounds of an expression. They hold for what Parse and ParseShort take, and for
// the canonical form of it, so that whatever was accepted once is accepted again.
const (
	// MaxBytes bounds the text of an expression.
	MaxBytes = 4 << 10
	// MaxTerms bounds how many tests and operators an expression has.
	MaxTerms = 256
	// MaxDepth bounds how deep parentheses and negations nest.
	MaxDepth = 32
	// MaxPatternInstructions bounds the compiled size of all the patterns of an
	// expression together.
	MaxPatternInstructions = 512
)

// A Target is an agent as a selector sees it. Its methods must answer at once and
// without effects, and the same for as long as a Match runs.
type Target interface {
	ID() string
	Name() string
	// Health is one of HealthStates, without the reason that may stand behind it.
	Health() string
	// Label and Fact answer the value of that name, and whether there is one.
	Label(name string) (value string, ok bool)
	Fact(name string) (value string, ok bool)
}

// A Selector says who is meant. It never changes, and any number of goroutines
// may use one at once.
type Selector struct {
	root node
	text string
}

// All is the selector that means everyone.
func All() *Selector { return &Selector{root: all{}, text: "all"} }

// Parse reads an expression in the long form, as in
//
//	label.env == "prod" && !(name startsWith "web-")
//
// The error is a *SyntaxError.
func Parse(expr string) (*Selector, error) {
	root, err := parse(expr)
	if err != nil {
		return nil, err
	}
	return build(expr, root)
}

// ParseShort reads the short form that labels alone need, as in
//
//	env=prod,tier!=db,rack,!old,zone in (a,b),os notin (windows)
//
// where a comma means "and". String of the result is the long form. The error is
// a *SyntaxError.
func ParseShort(expr string) (*Selector, error) {
	root, err := parseShort(expr)
	if err != nil {
		return nil, err
	}
	return build(expr, root)
}

func build(expr string, root node) (*Selector, error) {
	var b strings.Builder
	root.print(&b, lowest)
	if b.Len() > MaxBytes {
		return nil, tooLong(expr, b.Len())
	}
	return &Selector{root: root, text: b.String()}, nil
}

// Match reports whether t is meant. It always ends: each term of the expression
// is looked at once at most, and none costs more than the length of the value
// times MaxPatternInstructions.
func (s *Selector) Match(t Target) bool { return s.root.match(t) }

// String is the canonical form: the same for expressions that differ in spacing,
// quoting, spelling of operators, order of lists or needless parentheses only.
// Parse of it gives a selector that is equal in form and meaning.
func (s *Selector) String() string { return s.text }

// AsksHealth says that what the selector means changes with the health of agents.
func (s *Selector) AsksHealth() bool { return s.root.asks(fieldHealth) }
