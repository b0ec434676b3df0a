package selector

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A node is a part of an expression. Nodes never change once they are parsed.
type node interface {
	match(t Target) bool
	// print writes the canonical form, in parentheses when the surroundings bind
	// stronger than the node.
	print(b *strings.Builder, around binding)
	// asks says that the node looks at fields of the kind.
	asks(kind fieldKind) bool
}

type binding int

const (
	lowest binding = iota
	orBinding
	andBinding
	notBinding
)

type all struct{}

func (all) match(Target) bool                   { return true }
func (all) print(b *strings.Builder, _ binding) { b.WriteString("all") }
func (all) asks(fieldKind) bool                 { return false }

type not struct{ x node }

func (n not) match(t Target) bool      { return !n.x.match(t) }
func (n not) asks(kind fieldKind) bool { return n.x.asks(kind) }

func (n not) print(b *strings.Builder, _ binding) {
	b.WriteByte('!')
	n.x.print(b, notBinding)
}

// chain is "and" or "or" over two or more parts, none of which is a chain of the
// same kind.
type chain struct {
	or    bool
	parts []node
}

// link makes a chain, of which it takes chains of the same kind apart.
func link(or bool, parts []node) node {
	if len(parts) == 1 {
		return parts[0]
	}
	c := chain{or: or}
	for _, p := range parts {
		if inner, ok := p.(chain); ok && inner.or == or {
			c.parts = append(c.parts, inner.parts...)
		} else {
			c.parts = append(c.parts, p)
		}
	}
	return c
}

func (c chain) match(t Target) bool {
	for _, p := range c.parts {
		if p.match(t) == c.or {
			return c.or
		}
	}
	return !c.or
}

func (c chain) asks(kind fieldKind) bool {
	return slices.ContainsFunc(c.parts, func(p node) bool { return p.asks(kind) })
}

func (c chain) print(b *strings.Builder, around binding) {
	own, word := andBinding, " && "
	if c.or {
		own, word = orBinding, " || "
	}
	if around > own {
		b.WriteByte('(')
		defer b.WriteByte(')')
	}
	for i, p := range c.parts {
		if i > 0 {
			b.WriteString(word)
		}
		p.print(b, own)
	}
}

// has is true when the agent has a label or fact of that name.
type has struct{ field field }

func (h has) match(t Target) bool {
	_, ok := h.field.of(t)
	return ok
}

func (h has) asks(kind fieldKind) bool { return h.field.kind == kind }

func (h has) print(b *strings.Builder, _ binding) {
	b.WriteString("has ")
	b.WriteString(h.field.String())
}

// A textTerm compares a field with texts.
type textTerm struct {
	field   field
	op      string
	values  []string       // one; for in and not in, sorted and each once
	pattern *regexp.Regexp // for matches
}

func (c textTerm) match(t Target) bool {
	value, _ := c.field.of(t)
	switch c.op {
	case "==":
		return value == c.values[0]
	case "!=":
		return value != c.values[0]
	case "in":
		return c.contains(value)
	case "not in":
		return !c.contains(value)
	case "contains":
		return strings.Contains(value, c.values[0])
	case "startsWith":
		return strings.HasPrefix(value, c.values[0])
	case "endsWith":
		return strings.HasSuffix(value, c.values[0])
	default: // "matches"; the parser makes no other
		return c.pattern.MatchString(value)
	}
}

func (c textTerm) asks(kind fieldKind) bool { return c.field.kind == kind }

func (c textTerm) contains(value string) bool {
	_, found := slices.BinarySearch(c.values, value)
	return found
}

func (c textTerm) print(b *strings.Builder, around binding) {
	printTerm(b, around, c.field, c.op, c.values, strconv.Quote)
}

// A numberTerm compares a fact with numbers. A fact that is missing or no number
// is unequal to each and neither below nor above any.
type numberTerm struct {
	field  field
	op     string
	values []float64 // one; for in and not in, sorted and each once
}

func (c numberTerm) match(t Target) bool {
	text, _ := c.field.of(t)
	value, ok := number(text)
	if !ok {
		return c.op == "!=" || c.op == "not in"
	}
	switch c.op {
	case "==":
		return value == c.values[0]
	case "!=":
		return value != c.values[0]
	case "<":
		return value < c.values[0]
	case "<=":
		return value <= c.values[0]
	case ">":
		return value > c.values[0]
	case ">=":
		return value >= c.values[0]
	case "in":
		return slices.Contains(c.values, value)
	default: // "not in"; the parser makes no other
		return !slices.Contains(c.values, value)
	}
}

func (c numberTerm) asks(kind fieldKind) bool { return c.field.kind == kind }

func (c numberTerm) print(b *strings.Builder, around binding) {
	printTerm(b, around, c.field, c.op, c.values, func(v float64) string {
		return strconv.FormatFloat(v, 'g', -1, 64)
	})
}

func printTerm[T any](b *strings.Builder, around binding, f field, op string, values []T, show func(T) string) {
	if around == notBinding { // for the reader: !(a == b), not !a == b
		b.WriteByte('(')
		defer b.WriteByte(')')
	}
	b.WriteString(f.String() + " " + op + " ")
	list := op == "in" || op == "not in"
	if list {
		b.WriteByte('[')
	}
	for i, v := range values {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(show(v))
	}
	if list {
		b.WriteByte(']')
	}
}

// number reads a decimal number such as 8, -1.5 or 8e9. Words and other bases,
// which strconv would take, are no numbers here, and neither is what float64
// cannot hold.
func number(s string) (float64, bool) {
	if s == "" || len(s) > 64 {
		return 0, false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case '0' <= c && c <= '9', c == '+', c == '-', c == '.', c == 'e', c == 'E':
		default:
			return 0, false
		}
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, false
	}
	return v + 0, true // -0 is 0
}
