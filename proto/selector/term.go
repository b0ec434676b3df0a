package selector

import (
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// term reads FIELD OPERATOR VALUE.
func (p *parser) term() (node, error) {
	f, err := p.field()
	if err != nil {
		return nil, err
	}
	at := p.token.offset
	op, err := p.operator(f)
	if err != nil {
		return nil, err
	}
	if f.kind == fieldHealth && op != "==" && op != "!=" && op != "in" && op != "not in" {
		return nil, p.fail(at, "health is compared by ==, !=, in and not in only")
	}
	values, err := p.values(op)
	if err != nil {
		return nil, err
	}
	if values[0].kind == tokenNumber {
		return p.numberTerm(f, op, values)
	}
	return p.textTerm(f, op, values)
}

// values reads one value, or a list of at least one when op asks for a list.
func (p *parser) values(op string) ([]token, error) {
	if op != "in" && op != "not in" {
		v, err := p.value()
		return []token{v}, err
	}
	open := p.token
	if ok, err := p.take(tokenPunct, "["); err != nil || !ok {
		if err == nil {
			err = p.fail(open.offset, `%s stands where a list is expected: write %s ["a", "b"]`, open, op)
		}
		return nil, err
	}
	var values []token
	for {
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		if values = append(values, v); v.kind != values[0].kind {
			return nil, p.fail(v.offset, "%s stands in a list of the other kind: a list has either texts or numbers", v)
		}
		if closed, err := p.take(tokenPunct, "]"); err != nil || closed {
			return values, err
		}
		if p.token.kind == tokenEnd {
			return nil, p.fail(open.offset, `this "[" is never closed`)
		}
		if comma, err := p.take(tokenPunct, ","); err != nil || !comma {
			if err == nil {
				err = p.fail(p.token.offset, `%s stands where "," or "]" is expected`, p.token)
			}
			return nil, err
		}
	}
}

func (p *parser) value() (token, error) {
	v := p.token
	switch v.kind {
	case tokenText, tokenNumber:
		return v, p.advance()
	case tokenWord:
		return token{}, p.fail(v.offset, "%s stands where a value is expected; a text stands in quotes", v)
	}
	return token{}, p.fail(v.offset, "%s stands where a value is expected", v)
}

func (p *parser) numberTerm(f field, op string, tokens []token) (node, error) {
	switch {
	case f.kind != fieldFact:
		return nil, p.fail(tokens[0].offset, `%s is a text: write "%s" in quotes; only facts are compared with numbers`, f, tokens[0].value)
	case op == "contains" || op == "startsWith" || op == "endsWith" || op == "matches":
		return nil, p.fail(tokens[0].offset, `%s compares texts: write "%s" in quotes`, op, tokens[0].value)
	}
	c := numberTerm{field: f, op: op}
	for _, t := range tokens {
		v, _ := number(t.value) // the lexer has tried
		c.values = append(c.values, v)
	}
	slices.Sort(c.values)
	c.values = slices.Compact(c.values)
	return c, nil
}

func (p *parser) textTerm(f field, op string, tokens []token) (node, error) {
	switch op {
	case "<", "<=", ">", ">=":
		return nil, p.fail(tokens[0].offset, "%s compares numbers: write fact.NAME %s NUMBER without quotes", op, op)
	}
	c := textTerm{field: f, op: op}
	for _, t := range tokens {
		v := t.value
		if f.kind == fieldHealth {
			v = strings.ToUpper(v)
			if !slices.Contains(healthStates, v) {
				return nil, p.fail(t.offset, "unknown health %s; known are %s%s", shown(t.value),
					strings.Join(healthStates, ", "), near(v, healthStates...))
			}
		}
		c.values = append(c.values, v)
	}
	slices.Sort(c.values)
	c.values = slices.Compact(c.values)
	if op == "matches" {
		var err error
		c.pattern, err = p.pattern(tokens[0])
		return c, err
	}
	return c, nil
}

// pattern compiles a regular expression (RE2, which never looks back), once its
// size is known to be within what is left of MaxPatternInstructions.
func (p *parser) pattern(t token) (*regexp.Regexp, error) {
	const maxBytes = 256 // what a repetition may blow up before its size is known
	if len(t.value) > maxBytes {
		return nil, p.fail(t.offset, "the pattern has %d bytes, at most %d are allowed", len(t.value), maxBytes)
	}
	tree, err := syntax.Parse(t.value, syntax.Perl)
	if err != nil {
		return nil, p.fail(t.offset, "%s is not a pattern: %s", shown(t.value), strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	program, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return nil, p.fail(t.offset, "%s is not a pattern: %v", shown(t.value), err)
	}
	if p.instructions += len(program.Inst); p.instructions > MaxPatternInstructions {
		return nil, p.fail(t.offset, "the patterns up to here have the size %d, at most %d is allowed: use fewer or smaller repetitions",
			p.instructions, MaxPatternInstructions)
	}
	re, err := regexp.Compile(t.value)
	if err != nil {
		return nil, p.fail(t.offset, "%s is not a pattern: %v", shown(t.value), err)
	}
	return re, nil
}
