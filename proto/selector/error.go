package selector

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// A SyntaxError says what is wrong with an expression, and where.
type SyntaxError struct {
	Expr   string // the expression as it was given
	Offset int    // in bytes, of what is wrong; len(Expr) when it is what is missing at the end
	Reason string // a lower-case clause that says what to do
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("selector: column %d: %s", e.Column(), e.Reason)
}

// Column is the place in characters, from 1.
func (e *SyntaxError) Column() int { return utf8.RuneCountInString(e.Expr[:e.Offset]) + 1 }

// Caret is two lines for people: the expression, or the part of it around the
// place, and a caret below the place.
func (e *SyntaxError) Caret() string {
	const before, after = 50, 25
	left := []rune(oneLine(e.Expr[:e.Offset]))
	right := []rune(oneLine(e.Expr[e.Offset:]))
	if len(left) > before {
		left = append([]rune("..."), left[len(left)-before+3:]...)
	}
	if len(right) > after {
		right = append(right[:after-3:after-3], []rune("...")...)
	}
	return string(left) + string(right) + "\n" + strings.Repeat(" ", len(left)) + "^"
}

// oneLine makes each character one column of one line, whatever it was.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

func tooLong(expr string, length int) error {
	return &SyntaxError{Expr: expr, Reason: fmt.Sprintf(
		"the expression has %d bytes, at most %d are allowed: select by a label that these agents share", length, MaxBytes)}
}

// shown quotes what the user wrote, cut to a length that fits a message.
func shown(s string) string {
	const limit = 40
	if len(s) > limit {
		cut := limit
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		return fmt.Sprintf("%q...", s[:cut])
	}
	return fmt.Sprintf("%q", s)
}

// near returns `; did you mean "X"?` with the one of known that is nearest to
// word, or nothing when none is near.
func near(word string, known ...string) string {
	best, distance := "", 3
	for _, k := range known {
		if d := edits(strings.ToLower(word), strings.ToLower(k)); d < distance && d < len(k) {
			best, distance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// edits counts the insertions, deletions, replacements and swaps of neighbours
// that make b of a. Words far apart in length count as 3 at once.
func edits(a, b string) int {
	if len(a)-len(b) > 2 || len(b)-len(a) > 2 || len(a) > 32 {
		return 3
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			replaced := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				replaced++
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, replaced)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
