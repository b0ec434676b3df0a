package configs

import (
	"fmt"
	"slices"
	"strings"
)

// Example writes a commented YAML file with every option of p: what it means,
// what it may be, and its default behind a #.
func Example(p Program) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Every option of %[1]s with its default. Take the # away to change one.
#
# Stronger than this file are the environment (%[2]s and the key in capitals,
# with _ for a dot) and the flags of the command line (the key with - for _ and for
# a dot, unless a name is given here). "reload" marks what a running %[1]s takes
# when this file changes: replace the file by a rename, so that it is never seen
# half written.
`, p, EnvPrefix)
	for _, group := range groups(p) {
		b.WriteByte('\n')
		indent := ""
		if group.section != "" {
			fmt.Fprintf(&b, "%s:\n", group.section)
			indent = "  "
		}
		for i, o := range group.options {
			if i > 0 {
				b.WriteByte('\n')
			}
			_, last, nested := strings.Cut(o.Key, ".")
			if !nested {
				last = o.Key
			}
			for _, line := range wrap(o.Doc, 84-len(indent)) {
				fmt.Fprintf(&b, "%s# %s\n", indent, line)
			}
			fmt.Fprintf(&b, "%s# (%s)\n", indent, strings.Join(o.traits(), "; "))
			fmt.Fprintf(&b, "%s#%s: %s\n", indent, last, o.yaml())
		}
	}
	return b.String()
}

type group struct {
	section string
	options []*Option
}

// groups puts options that YAML nests together, in the order of the table, with
// what is shared at the end.
func groups(p Program) []group {
	var out []group
	for _, shared := range []bool{false, true} {
		for i := range table {
			o := &table[i]
			if o.Readers&p == 0 || (o.Readers != p) != shared {
				continue
			}
			section, _, nested := strings.Cut(o.Key, ".")
			if !nested {
				out = append(out, group{"", []*Option{o}})
				continue
			}
			at := slices.IndexFunc(out, func(g group) bool { return g.section == section })
			if at < 0 {
				at, out = len(out), append(out, group{section: section})
			}
			out[at].options = append(out[at].options, o)
		}
	}
	return out
}

// traits says what kind of value the option takes.
func (o *Option) traits() []string {
	traits := []string{o.Kind.String()}
	if b := o.Bounds(); b != "" {
		traits = append(traits, b)
	}
	if o.flag != "" {
		traits = append(traits, "flag --"+o.flag)
	}
	if o.Reload {
		traits = append(traits, "reload")
	}
	return traits
}

// yaml writes the default as YAML.
func (o *Option) yaml() string {
	switch {
	case o.Kind == KindList:
		return "[" + o.Default + "]"
	case o.Kind == KindMap:
		return "{" + strings.ReplaceAll(o.Default, "=", ": ") + "}"
	case o.Default == "" || strings.Contains(o.Default, ":"):
		return `"` + o.Default + `"`
	default:
		return o.Default
	}
}

// wrap breaks text at spaces so that lines stay within width.
func wrap(text string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) <= width:
			line += " " + word
		default:
			lines, line = append(lines, line), word
		}
	}
	return append(lines, line)
}
