package configs

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Kind says how a value is written and which Go type it becomes.
type Kind uint8

// The kinds.
const (
	KindString   Kind = iota + 1 // string
	KindDuration                 // time.Duration, as 10s, 1h30m or 30d
	KindInt                      // int
	KindBytes                    // int64, as 512, 64KiB, 10MiB, 1GiB
	KindBool                     // bool, true or false
	KindList                     // []string: a YAML sequence, or text with commas
	KindMap                      // map[string]string: a YAML mapping, or k=v with commas
)

func (k Kind) String() string {
	return [...]string{"", "string", "duration", "int", "bytes", "bool", "list", "map"}[k]
}

// raw is a value as a layer gives it: a text, or from YAML items or pairs.
type raw struct {
	text  string
	items []string
	pairs map[string]string
}

func (r raw) isText() bool { return r.items == nil && r.pairs == nil }

// parse makes the Go value of r. The error is the clause that follows the key.
func (o *Option) parse(r raw) (any, error) {
	if !r.isText() && (o.Kind != KindList || r.items == nil) && (o.Kind != KindMap || r.pairs == nil) {
		return nil, fmt.Errorf("wants %s, not a %s", o.wants(), map[bool]string{true: "list", false: "mapping"}[r.items != nil])
	}
	var value any
	var err error
	switch o.Kind {
	case KindString:
		value, err = r.text, o.checkText(r.text)
	case KindBool:
		value, err = parseBool(r.text)
	case KindDuration:
		value, err = ParseDuration(r.text)
	case KindBytes:
		value, err = ParseBytes(r.text)
	case KindInt:
		value, err = parseInt(r.text)
	case KindList:
		value, err = o.parseList(r)
	case KindMap:
		value, err = o.parseMap(r)
	}
	if err != nil {
		return nil, err
	}
	return value, o.checkBounds(value)
}

func (o *Option) wants() string {
	switch o.Kind {
	case KindList:
		return "a list"
	case KindMap:
		return "a mapping"
	case KindInt:
		return "an int"
	case KindBytes:
		return "a size"
	default:
		return "a " + o.Kind.String()
	}
}

func (o *Option) checkText(text string) error {
	if text == "" && o.Default != "" {
		return fmt.Errorf("is empty: remove it to have the default %q", o.Default)
	}
	if len(o.Enum) > 0 && !slices.Contains(o.Enum, text) {
		return fmt.Errorf("%q is none of %s%s", text, strings.Join(o.Enum, ", "), near(text, o.Enum))
	}
	if o.check != nil && text != "" {
		if wrong := o.check(text); wrong != "" {
			return fmt.Errorf("%q %s", text, wrong)
		}
	}
	return nil
}

func (o *Option) parseList(r raw) ([]string, error) {
	items := r.items
	if r.isText() {
		for item := range strings.SplitSeq(r.text, ",") {
			if item = strings.TrimSpace(item); item != "" {
				items = append(items, item)
			}
		}
	}
	for _, item := range items {
		if item == "" || strings.Contains(item, ",") {
			return nil, fmt.Errorf("has the item %q: an item is not empty and has no comma", item)
		}
		if err := o.checkText(item); err != nil {
			return nil, err
		}
	}
	return slices.Clone(items), nil
}

func (o *Option) parseMap(r raw) (map[string]string, error) {
	pairs := map[string]string{}
	for k, v := range r.pairs {
		pairs[k] = v
	}
	if r.isText() && r.text != "" {
		for pair := range strings.SplitSeq(r.text, ",") {
			k, v, found := strings.Cut(strings.TrimSpace(pair), "=")
			if !found {
				return nil, fmt.Errorf("%q is not NAME=VALUE", pair)
			}
			if _, twice := pairs[k]; twice {
				return nil, fmt.Errorf("%q is given twice", k)
			}
			pairs[k] = v
		}
	}
	for _, k := range slices.Sorted(maps.Keys(pairs)) {
		v := pairs[k]
		if k == "" || strings.ContainsAny(k, ",=") || strings.Contains(v, ",") {
			return nil, fmt.Errorf("has the pair %q: %q: a name is not empty, and neither has a comma, nor a name a \"=\"", k, v)
		}
		if err := o.checkText(k); err != nil {
			return nil, err
		}
	}
	return pairs, nil
}

func parseBool(text string) (bool, error) {
	switch text {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fmt.Errorf("%q is not true or false", text)
}

func parseInt(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number", text)
	}
	return n, nil
}

// checkBounds reports a value outside Min and Max.
func (o *Option) checkBounds(value any) error {
	var n int64
	shown := o.format(value)
	switch v := value.(type) {
	case time.Duration:
		n = int64(v)
	case int:
		n = int64(v)
		if o.odd && v%2 == 0 {
			return fmt.Errorf("%d is not odd", v)
		}
	case int64:
		n = v
	case []string:
		n, shown = int64(len(v)), fmt.Sprintf("a count of %d", len(v))
	case map[string]string:
		n, shown = int64(len(v)), fmt.Sprintf("a count of %d", len(v))
	default:
		return nil
	}
	if o.Min != "" && n < o.bound(o.Min) {
		return fmt.Errorf("%s is below the minimum %s", shown, o.Min)
	}
	if o.Max != "" && n > o.bound(o.Max) {
		return fmt.Errorf("%s is above the maximum %s", shown, o.Max)
	}
	return nil
}

// bound reads Min or Max, which a test has found readable.
func (o *Option) bound(text string) int64 {
	switch o.Kind {
	case KindDuration:
		d, _ := ParseDuration(text)
		return int64(d)
	case KindBytes:
		n, _ := ParseBytes(text)
		return n
	default:
		n, _ := strconv.ParseInt(text, 10, 64)
		return n
	}
}

// format writes a value as a file or the command line may have it.
func (o *Option) format(value any) string {
	switch v := value.(type) {
	case time.Duration:
		return FormatDuration(v)
	case int64:
		return FormatBytes(v)
	case []string:
		return strings.Join(v, ",")
	case map[string]string:
		pairs := make([]string, 0, len(v))
		for k, value := range v {
			pairs = append(pairs, k+"="+value)
		}
		slices.Sort(pairs)
		return strings.Join(pairs, ",")
	default:
		return fmt.Sprint(v)
	}
}
