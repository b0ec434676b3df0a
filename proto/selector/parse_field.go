package selector

import (
	"fmt"
	"slices"
	"strings"
)

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
