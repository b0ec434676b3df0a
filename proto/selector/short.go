package selector

import (
	"slices"
	"strings"
)

// parseShort reads the short form with a scanner of its own: it has no quotes,
// no nesting and one kind of field, so that the shell needs no quoting either.
func parseShort(expr string) (node, error) {
	s := &shortParser{parser{lexer: lexer{expr: expr}}}
	if err := s.check(); err != nil {
		return nil, err
	}
	if strings.TrimSpace(expr) == "" {
		return nil, s.fail(0, "the selector is empty: use --on all to mean every agent")
	}
	var parts []node
	for {
		if err := s.countShort(); err != nil {
			return nil, err
		}
		n, err := s.requirement()
		if err != nil {
			return nil, err
		}
		parts = append(parts, n)
		s.skip()
		if s.at == len(s.expr) {
			return link(false, parts), nil
		}
		if !s.sign(",") {
			return nil, s.fail(s.at, `%s stands where "," or the end is expected`, shown(s.rest()))
		}
	}
}

// A shortParser shares the parser's bounds, and neither its tokens nor its grammar.
type shortParser struct{ parser }

// countShort counts a requirement and the comma before it.
func (s *shortParser) countShort() error {
	s.token.offset = s.at
	if s.terms > 0 {
		if err := s.count(); err != nil {
			return err
		}
	}
	return s.count()
}

// requirement reads one of: name, !name, name=value, name==value, name!=value,
// name in (a,b), name notin (a,b).
func (s *shortParser) requirement() (node, error) {
	s.skip()
	negated := s.sign("!")
	start := s.at
	name := s.run(nameByte)
	if !plainName(name) {
		return nil, s.fail(start, `%s stands where the name of a label is expected, as in env=prod`, shownOrEnd(name+s.rest()))
	}
	if prefix, label, dotted := strings.Cut(name, "."); dotted && prefix == "label" {
		return nil, s.fail(start, "the short form has labels only: write %s without \"label.\"", shown(label))
	}
	f := field{fieldLabel, name}
	s.skip()
	if negated {
		if s.at < len(s.expr) && s.expr[s.at] != ',' {
			return nil, s.fail(s.at, `"!%s" asks that the label is not there and takes no value: write %s!=VALUE`, name, name)
		}
		if err := s.count(); err != nil {
			return nil, err
		}
		return not{has{f}}, nil
	}
	switch {
	case s.sign("!="):
		return s.equal(f, "!=")
	case s.sign("=="), s.sign("="):
		return s.equal(f, "==")
	case s.at == len(s.expr), s.expr[s.at] == ',':
		return has{f}, nil
	}
	start = s.at
	switch word := s.run(wordByte); word {
	case "in":
		return s.list(f, "in")
	case "notin":
		return s.list(f, "not in")
	default:
		return nil, s.fail(start, "%s stands where =, ==, !=, in, notin or \",\" is expected%s", shown(word+s.rest()), near(word, "in", "notin"))
	}
}

func (s *shortParser) equal(f field, op string) (node, error) {
	s.skip()
	start := s.at
	value := s.value()
	if !shortValue(value) {
		return nil, s.fail(start, `%s is not a value of the short form, where values have no quotes, spaces or "=": is a comma missing, or --on meant?`, shown(value))
	}
	return textTerm{field: f, op: op, values: []string{value}}, nil
}

func (s *shortParser) list(f field, op string) (node, error) {
	s.skip()
	open := s.at
	if !s.sign("(") {
		return nil, s.fail(open, "a list in parentheses is expected, as in %s in (a,b)", f.name)
	}
	c := textTerm{field: f, op: op}
	for {
		s.skip()
		start := s.at
		value := s.value()
		if value == "" || !shortValue(value) {
			return nil, s.fail(start, "%s stands where a value is expected, as in %s in (a,b)", shownOrEnd(value+s.rest()), f.name)
		}
		c.values = append(c.values, value)
		switch {
		case s.sign(","):
		case s.sign(")"):
			slices.Sort(c.values)
			c.values = slices.Compact(c.values)
			return c, nil
		default:
			return nil, s.fail(open, `this "(" is never closed`)
		}
	}
}

// value reads up to a comma or a parenthesis, without the spaces around.
func (s *shortParser) value() string {
	return strings.TrimRight(s.run(func(c byte) bool { return strings.IndexByte(",()", c) < 0 }), " \t\r\n")
}

func shortValue(v string) bool { return !strings.ContainsAny(v, "=!\"'` \t\r\n") }

func (s *shortParser) run(in func(byte) bool) string {
	start := s.at
	for s.at < len(s.expr) && in(s.expr[s.at]) {
		s.at++
	}
	return s.expr[start:s.at]
}

func (s *shortParser) skip() {
	s.run(func(c byte) bool { return strings.IndexByte(" \t\r\n", c) >= 0 })
}

func (s *shortParser) sign(sign string) bool {
	if !strings.HasPrefix(s.expr[s.at:], sign) {
		return false
	}
	s.at += len(sign)
	return true
}

func (s *shortParser) rest() string { return s.expr[s.at:] }

func shownOrEnd(s string) string {
	if s == "" {
		return "the end"
	}
	return shown(s)
}
