package configs

import (
	"errors"
	"fmt"
	"strings"
)

// A LoadError is one thing that is wrong with a configuration.
type LoadError struct {
	Origin Origin
	Key    string // "" when it is the whole layer
	Reason string // the clause that follows the key, with value and bound
}

func (p *LoadError) Error() string {
	where := "load config: "
	switch p.Origin.Layer {
	case LayerFile:
		where = fmt.Sprintf("load config %q: ", p.Origin.Name)
		if p.Origin.Line > 0 {
			where += fmt.Sprintf("line %d: ", p.Origin.Line)
		}
	case LayerEnv, LayerFlag:
		where += p.Origin.String() + ": "
	}
	if p.Key != "" {
		where += p.Key + ": "
	}
	return where + p.Reason
}

// join makes one error of problems, one line each, or nil of none.
func join(problems []*LoadError) error {
	errs := make([]error, len(problems))
	for i, p := range problems {
		errs[i] = p
	}
	return errors.Join(errs...)
}

// Problems takes an error of Load apart.
func Problems(err error) []*LoadError {
	var one *LoadError
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var out []*LoadError
		for _, e := range joined.Unwrap() {
			out = append(out, Problems(e)...)
		}
		return out
	}
	if errors.As(err, &one) {
		return []*LoadError{one}
	}
	return nil
}

// near returns `; did you mean "X"?` with the one of known that is nearest to
// word, or nothing when none is near. Words with another prefix but the same last
// part are near too, so that log_level finds log.level and heartbeat_interval
// finds agent.heartbeat_interval.
func near(word string, known []string) string {
	best, distance := "", 1+max(2, min(4, len(word)/4))
	plain := strings.NewReplacer("-", "_", ".", "_")
	for _, k := range known {
		d := edits(plain.Replace(strings.ToLower(word)), plain.Replace(k))
		if strings.HasSuffix(k, "."+word) {
			d = 1
		}
		if d < distance && d < len(k) {
			best, distance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// edits counts the insertions, deletions and replacements that make b of a.
func edits(a, b string) int {
	const limit = 64 // longer than any key
	if len(a) > limit || len(b) > limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(row[j+1]+1, row[j]+1, replaced)
		}
	}
	return row[len(b)]
}
