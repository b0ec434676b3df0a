package configs

import (
	"maps"
	"slices"
)

// A Setting is one option with the value in force.
type Setting struct {
	Option Option
	Value  string // as a file may have it; of a secret only whether it is set
	Origin Origin // the layer that won
	Hides  []Origin
}

// Explain says for every option, sorted by key, which value is in force, where it
// comes from, and which weaker layers set it too.
func (c *Config) Explain() []Setting {
	var out []Setting
	for _, key := range slices.Sorted(maps.Keys(c.settings)) {
		s := c.settings[key]
		value := s.text()
		if s.option.Secret && value != "" {
			value = "(set)"
		}
		out = append(out, Setting{Option: *s.option, Value: value, Origin: s.origin, Hides: slices.Clone(s.hides)})
	}
	return out
}
