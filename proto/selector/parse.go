package selector

import (
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
