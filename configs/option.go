package configs

import (
	"fmt"
	"slices"
	"strings"
)

// A Program is one of the binaries that read a configuration.
type Program uint8

// The programs. Options name their readers as a set of them.
const (
	ProgramNode Program = 1 << iota
	ProgramAgent
	ProgramCtl
)

func (p Program) String() string {
	var names []string
	for i, name := range []string{"agentplane", "agentd", "agentctl"} {
		if p&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, " and ")
}

// An Option is one setting: its names, what it may be, and what it means.
type Option struct {
	// Key is the name in YAML, dotted where YAML nests.
	Key string
	// Readers are the programs that know the option.
	Readers Program
	Kind    Kind
	// Default, Min and Max are written as in a file; Min and Max are allowed values
	// themselves, and "" is no bound. For lists and maps they bound the count.
	Default, Min, Max string
	// Enum lists the allowed texts, when not every text is one.
	Enum []string
	// Reload says that a running program takes a new value from the file.
	Reload bool
	// Secret says that the value is never shown.
	Secret bool
	// Doc is one or more sentences for the person who sets the option.
	Doc string

	// flag is the name on the command line where the key does not give it.
	flag string
	// short is the letter on the command line, when there is one.
	short string
	// check says what is wrong with a text, with an item of a list or a name of a map; "" is
	// right.
	check func(text string) string
	// odd says that a number must be odd.
	odd bool
}

// Flag is the option's name on the command line, without the dashes.
func (o *Option) Flag() string {
	if o.flag != "" {
		return o.flag
	}
	return strings.NewReplacer(".", "-", "_", "-").Replace(o.Key)
}

// EnvPrefix begins the names of the environment variables that are options.
const EnvPrefix = "AGENTPLANE_CONFIG_"

// Env is the option's name in the environment.
func (o *Option) Env() string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(o.Key, ".", "_"))
}

// Bounds says in words what the value may be, as in "100ms to 5m"; "" when there
// is nothing to say.
func (o *Option) Bounds() string {
	var words []string
	switch {
	case len(o.Enum) > 0:
		words = append(words, strings.Join(o.Enum, " | "))
	case o.Min != "" && o.Max != "":
		words = append(words, o.Min+" to "+o.Max)
	case o.Min != "":
		words = append(words, "at least "+o.Min)
	case o.Max != "":
		words = append(words, "at most "+o.Max)
	}
	if o.odd {
		words = append(words, "odd")
	}
	bounds := strings.Join(words, ", ")
	if bounds != "" && (o.Kind == KindList || o.Kind == KindMap) {
		bounds += " items"
	}
	return bounds
}

// Options returns the options that p knows, sorted by key.
func Options(p Program) []Option {
	var out []Option
	for _, o := range table {
		if o.Readers&p != 0 {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b Option) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// lookup finds p's option of that key.
func lookup(p Program, key string) *Option {
	for i := range table {
		if table[i].Key == key && table[i].Readers&p != 0 {
			return &table[i]
		}
	}
	return nil
}

// unknown says that p has no option of that key, whose it is, and which is near.
func unknown(p Program, key string) string {
	for _, other := range []Program{ProgramNode, ProgramAgent, ProgramCtl} {
		if other != p && lookup(other, key) != nil {
			return fmt.Sprintf("is an option of %s, not of %s: remove it here", other, p)
		}
	}
	var keys []string
	for _, o := range Options(p) {
		keys = append(keys, o.Key)
	}
	return fmt.Sprintf("is not an option of %s%s", p, near(key, keys))
}
