package selector

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

type tokenKind byte

const (
	tokenEnd    tokenKind = iota
	tokenWord             // a name or an operator in letters; label.NAME is one word
	tokenText             // a quoted text; value is what it says
	tokenNumber           // value is as written
	tokenPunct            // an operator in signs, a bracket or a comma
)

type token struct {
	kind   tokenKind
	value  string
	offset int
}

func (t token) is(kind tokenKind, values ...string) bool {
	if t.kind != kind {
		return false
	}
	for _, v := range values {
		if t.value == v {
			return true
		}
	}
	return false
}

func (t token) String() string {
	switch t.kind {
	case tokenEnd:
		return "the end"
	case tokenText:
		return "the text " + shown(t.value)
	default:
		return shown(t.value)
	}
}

// A lexer cuts an expression into tokens, from left to right and each once.
type lexer struct {
	expr string
	at   int
}

func (l *lexer) fail(offset int, format string, args ...any) error {
	return &SyntaxError{Expr: l.expr, Offset: offset, Reason: fmt.Sprintf(format, args...)}
}

func (l *lexer) next() (token, error) {
	for l.at < len(l.expr) && strings.IndexByte(" \t\r\n", l.expr[l.at]) >= 0 {
		l.at++
	}
	start := l.at
	if start == len(l.expr) {
		return token{offset: start}, nil
	}
	switch c := l.expr[start]; {
	case c == '"' || c == '\'' || c == '`':
		return l.text(c)
	case '0' <= c && c <= '9', c == '-', c == '+', c == '.':
		return l.number()
	case wordByte(c):
		return l.word(), nil
	}
	return l.punct()
}

func (l *lexer) word() token {
	start := l.at
	for l.at < len(l.expr) && wordByte(l.expr[l.at]) {
		l.at++
	}
	if l.at < len(l.expr) && l.expr[l.at] == '.' {
		for l.at < len(l.expr) && nameByte(l.expr[l.at]) {
			l.at++
		}
	}
	return token{tokenWord, l.expr[start:l.at], start}
}

func (l *lexer) number() (token, error) {
	start := l.at
	for l.at < len(l.expr) && (wordByte(l.expr[l.at]) || strings.IndexByte("+-.", l.expr[l.at]) >= 0) {
		l.at++
	}
	value := l.expr[start:l.at]
	if _, ok := number(value); !ok {
		return token{}, l.fail(start, "%s is not a number such as 4, 0.5 or 8e9; a text stands in quotes", shown(value))
	}
	return token{tokenNumber, value, start}, nil
}

// text reads a quoted text: between " or ' with the escapes of Go, between ` as
// it stands.
func (l *lexer) text(quote byte) (token, error) {
	start := l.at
	end := start + 1
	for {
		switch {
		case end >= len(l.expr):
			return token{}, l.fail(start, "the text that begins here has no closing %c", quote)
		case l.expr[end] == '\\' && quote != '`':
			end += 2
			continue
		case l.expr[end] != quote:
			end++
			continue
		}
		break
	}
	l.at = end + 1
	if quote == '`' {
		return token{tokenText, l.expr[start+1 : end], start}, nil
	}
	var b strings.Builder
	for rest := l.expr[start+1 : end]; rest != ""; {
		r, multibyte, tail, err := strconv.UnquoteChar(rest, quote)
		if err != nil {
			return token{}, l.fail(end-len(rest), "%s is no escape that a quoted text knows: double the backslash, or use `...`",
				shown(rest[:min(2, len(rest))]))
		}
		if r < utf8.RuneSelf || !multibyte {
			b.WriteByte(byte(r))
		} else {
			b.WriteRune(r)
		}
		rest = tail
	}
	return token{tokenText, b.String(), start}, nil
}

func (l *lexer) punct() (token, error) {
	start := l.at
	for _, p := range []string{"=~", "~=", "!~", "~"} {
		if strings.HasPrefix(l.expr[start:], p) {
			return token{}, l.fail(start, "%q is not an operator: write matches \"REGEXP\"; known are %s", p, knownOperators)
		}
	}
	for _, p := range []string{"==", "!=", "<=", ">=", "&&", "||", "!", "<", ">", "(", ")", "[", "]", ","} {
		if strings.HasPrefix(l.expr[start:], p) {
			l.at += len(p)
			return token{tokenPunct, p, start}, nil
		}
	}
	switch l.expr[start] {
	case '=', '&', '|':
		sign := l.expr[start : start+1]
		return token{}, l.fail(start, "%q is not an operator: write %q", sign, sign+sign)
	}
	_, size := utf8.DecodeRuneInString(l.expr[start:])
	return token{}, l.fail(start, "%q has no meaning here; a text stands in quotes", l.expr[start:start+size])
}
