package selector

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// A parser goes through the tokens once; how deep it recurses is bounded by
// MaxDepth.
type parser struct {
	lexer
	token        token // the next one
	terms        int
	depth        int
	instructions int // of all patterns so far
}

func parse(expr string) (node, error) {
	p := &parser{lexer: lexer{expr: expr}}
	if err := p.check(); err != nil {
		return nil, err
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if p.token.kind == tokenEnd {
		return nil, p.fail(0, `the selector is empty: write "all" to mean every agent`)
	}
	root, err := p.or()
	if err != nil {
		return nil, err
	}
	if t := p.token; t.kind != tokenEnd {
		hint := ""
		if t.kind == tokenWord {
			hint = near(t.value, "and", "or")
		}
		return nil, p.fail(t.offset, `%s stands where "&&", "||" or the end is expected%s`, t, hint)
	}
	return root, nil
}

// check refuses what is too long or no text before anything looks at it.
func (l *lexer) check() error {
	if len(l.expr) > MaxBytes {
		return tooLong(l.expr, len(l.expr))
	}
	for i, r := range l.expr {
		if _, size := utf8.DecodeRuneInString(l.expr[i:]); r == utf8.RuneError && size == 1 {
			return l.fail(i, "byte %#x is not UTF-8", l.expr[i])
		}
	}
	return nil
}

func (p *parser) advance() (err error) {
	p.token, err = p.next()
	return err
}

// take goes on to the next token when this one is one of values, which it reports.
func (p *parser) take(kind tokenKind, values ...string) (bool, error) {
	if !p.token.is(kind, values...) {
		return false, nil
	}
	return true, p.advance()
}

func (p *parser) or() (node, error) {
	return p.chain(true, p.and, "||", "or")
}

func (p *parser) and() (node, error) {
	return p.chain(false, p.unary, "&&", "and")
}

func (p *parser) chain(or bool, part func() (node, error), sign, word string) (node, error) {
	var parts []node
	for {
		n, err := part()
		if err != nil {
			return nil, err
		}
		parts = append(parts, n)
		if !p.token.is(tokenPunct, sign) && !p.token.is(tokenWord, word) {
			return link(or, parts), nil
		}
		if err := p.count(); err != nil {
			return nil, err
		}
		if err := p.advance(); err != nil {
			return nil, err
		}
	}
}

func (p *parser) count() error {
	if p.terms++; p.terms > MaxTerms {
		return p.fail(p.token.offset, "the expression has more than %d tests and operators: use \"in [...]\", or a label that these agents share", MaxTerms)
	}
	return nil
}

func (p *parser) deeper() error {
	if p.depth++; p.depth > MaxDepth {
		return p.fail(p.token.offset, "parentheses and negations nest deeper than %d", MaxDepth)
	}
	return nil
}

func (p *parser) unary() (node, error) {
	t := p.token
	switch {
	case t.is(tokenPunct, "!"), t.is(tokenWord, "not"):
		return p.not()
	case t.is(tokenPunct, "("):
		return p.group()
	}
	if err := p.count(); err != nil {
		return nil, err
	}
	switch {
	case t.is(tokenWord, "all"):
		return all{}, p.advance()
	case t.is(tokenWord, "has"):
		return p.has()
	}
	return p.term()
}

func (p *parser) not() (node, error) {
	if err := p.deeper(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	if err := p.count(); err != nil {
		return nil, err
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if p.token.kind == tokenWord && !p.token.is(tokenWord, "not", "all", "has") {
		// The canonical form puts a term behind "!" in parentheses.
		if err := p.deeper(); err != nil {
			return nil, err
		}
		defer func() { p.depth-- }()
	}
	x, err := p.unary()
	if err != nil {
		return nil, err
	}
	return not{x}, nil
}

func (p *parser) group() (node, error) {
	open := p.token
	if err := p.deeper(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	if err := p.advance(); err != nil {
		return nil, err
	}
	x, err := p.or()
	if err != nil {
		return nil, err
	}
	if p.token.kind == tokenEnd {
		return nil, p.fail(open.offset, `this "(" is never closed`)
	}
	if closed, err := p.take(tokenPunct, ")"); err != nil || !closed {
		if err == nil {
			err = p.fail(p.token.offset, `%s stands where "&&", "||" or ")" is expected`, p.token)
		}
		return nil, err
	}
	return x, nil
}

func (p *parser) has() (node, error) {
	if err := p.advance(); err != nil {
		return nil, err
	}
	at := p.token.offset
	f, err := p.field()
	if err != nil {
		return nil, err
	}
	if !f.named() {
		return nil, p.fail(at, `every agent has %s: "has" asks for label.NAME or fact.NAME`, f)
	}
	return has{f}, nil
}

func (p *parser) field() (field, error) {
	t := p.token
	if t.kind != tokenWord || slices.Contains(reserved, t.value) {
		return field{}, p.fail(t.offset, "%s stands where a name is expected; known are %s", t, knownFields)
	}
	head, name, dotted := strings.Cut(t.value, ".")
	kind, known := fieldKinds[head]
	if !known {
		return field{}, p.fail(t.offset, "unknown name %s; known are %s%s", shown(t.value), knownFields,
			near(head, "id", "name", "health", "label", "fact", "all"))
	}
	f := field{kind: kind, name: name}
	if err := p.advance(); err != nil {
		return field{}, err
	}
	switch {
	case !f.named() && dotted:
		return field{}, p.fail(t.offset, "%s has no parts: write %s alone", head, head)
	case !f.named():
		return f, nil
	case dotted && !plainName(name):
		return field{}, p.fail(t.offset, `%s does not end like a name: write %s["%s"] when it is meant so`, shown(t.value), head, name)
	case dotted:
		return f, nil
	}
	if open, err := p.take(tokenPunct, "["); err != nil || !open {
		if err == nil {
			err = p.fail(t.offset, `%s needs a name: write %s.NAME or %s["NAME"]`, head, head, head)
		}
		return field{}, err
	}
	if p.token.kind != tokenText || p.token.value == "" {
		return field{}, p.fail(p.token.offset, `%s stands where a quoted name is expected, as in %s["NAME"]`, p.token, head)
	}
	f.name = p.token.value
	if err := p.advance(); err != nil {
		return field{}, err
	}
	if closed, err := p.take(tokenPunct, "]"); err != nil || !closed {
		if err == nil {
			err = p.fail(p.token.offset, `%s stands where "]" is expected`, p.token)
		}
		return field{}, err
	}
	return f, nil
}

var reserved = []string{"all", "and", "or", "not", "has", "in", "contains", "startsWith", "endsWith", "matches"}

const knownOperators = "==, !=, <, <=, >, >=, in, not in, matches, contains, startsWith and endsWith"

// operator reads what stands behind the field f.
func (p *parser) operator(f field) (op string, err error) {
	t := p.token
	switch {
	case t.is(tokenPunct, "==", "!=", "<", "<=", ">", ">="),
		t.is(tokenWord, "in", "contains", "startsWith", "endsWith", "matches"):
		return t.value, p.advance()
	case t.is(tokenWord, "not"):
		if err := p.advance(); err != nil {
			return "", err
		}
		if in, err := p.take(tokenWord, "in"); err != nil || !in {
			if err == nil {
				err = p.fail(t.offset, `"not" stands before what it negates, or is "not in"`)
			}
			return "", err
		}
		return "not in", nil
	case t.kind == tokenWord && !slices.Contains(reserved, t.value):
		return "", p.fail(t.offset, "unknown operator %s; known are %s%s", shown(t.value), knownOperators,
			near(t.value, "in", "contains", "startsWith", "endsWith", "matches"))
	}
	hint := ""
	if f.named() {
		hint = fmt.Sprintf("; to ask whether it is there write: has %s", f)
	}
	return "", p.fail(t.offset, "%s stands where an operator is expected after %s%s", t, f, hint)
}
