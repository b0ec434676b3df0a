package configs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Config is one whole and valid configuration of one program. It never changes.
type Config struct {
	program  Program
	settings map[string]setting // one for every option of the program
}

type setting struct {
	option *Option
	value  any
	origin Origin
	hides  []Origin // weaker layers that set it too, the strongest first
}

func (s setting) text() string { return s.option.format(s.value) }

// Sources are where a configuration comes from. What is zero is not asked.
type Sources struct {
	Program Program
	// Flags are the texts given on the command line, by key; see BindFlags.
	Flags map[string][]string
	// Environ is as os.Environ gives it.
	Environ []string
	// File is the path of the YAML file.
	File string
}

// Load reads all layers and checks everything. The error joins one *LoadError for
// each thing that is wrong.
func Load(s Sources) (*Config, error) {
	c := &Config{program: s.Program, settings: map[string]setting{}}
	var problems []*LoadError
	for i := range table {
		if o := &table[i]; o.Readers&s.Program != 0 {
			value, err := o.parse(raw{text: o.Default})
			if err != nil { // a test has found every default valid
				panic(fmt.Sprintf("configs: default of %s: %v", o.Key, err))
			}
			c.settings[o.Key] = setting{option: o, value: value}
		}
	}
	if s.File != "" {
		problems = append(problems, c.loadFile(s.File)...)
	}
	problems = append(problems, c.loadEnv(s.Environ)...)
	problems = append(problems, c.loadFlags(s.Flags)...)
	if len(problems) == 0 {
		problems = c.checkRules()
	}
	if len(problems) > 0 {
		return nil, join(problems)
	}
	return c, nil
}

// set puts the value of one layer in, above those of weaker layers.
func (c *Config) set(o *Option, r raw, origin Origin) *LoadError {
	value, err := o.parse(r)
	if err != nil {
		reason := err.Error()
		if o.Secret {
			reason = "the value is not valid"
		}
		return &LoadError{origin, o.Key, reason}
	}
	old := c.settings[o.Key]
	hides := old.hides
	if old.origin.Layer != LayerDefault {
		hides = append([]Origin{old.origin}, hides...)
	}
	c.settings[o.Key] = setting{option: o, value: value, origin: origin, hides: hides}
	return nil
}

func (c *Config) loadEnv(environ []string) (problems []*LoadError) {
	names := map[string]*Option{}
	var known []string
	foreign := map[string]bool{}
	for i := range table {
		o := &table[i]
		if o.Readers&c.program != 0 {
			names[o.Env()] = o
			known = append(known, o.Env())
		} else {
			foreign[o.Env()] = true
		}
	}
	for _, pair := range slices.Sorted(slices.Values(environ)) {
		name, text, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, EnvPrefix) {
			continue
		}
		origin := Origin{Layer: LayerEnv, Name: name}
		switch o := names[name]; {
		case o != nil:
			if p := c.set(o, raw{text: text}, origin); p != nil {
				problems = append(problems, p)
			}
		case !foreign[name]: // an environment may serve several programs
			problems = append(problems, &LoadError{origin, "", fmt.Sprintf("is not an option of %s%s", c.program, nearEnv(name, known))})
		}
	}
	return problems
}

func (c *Config) loadFlags(flags map[string][]string) (problems []*LoadError) {
	for _, key := range slices.Sorted(maps.Keys(flags)) {
		texts := flags[key]
		o := lookup(c.program, key)
		if o == nil {
			problems = append(problems, &LoadError{Origin{Layer: LayerFlag, Name: "--" + key}, key, unknown(c.program, key)})
			continue
		}
		if len(texts) == 0 {
			continue
		}
		text := texts[len(texts)-1]
		if o.Kind == KindList || o.Kind == KindMap {
			text = strings.Join(texts, ",")
		}
		if p := c.set(o, raw{text: text}, Origin{Layer: LayerFlag, Name: "--" + o.Flag()}); p != nil {
			problems = append(problems, p)
		}
	}
	return problems
}

// nearEnv is near for names of variables.
func nearEnv(name string, known []string) string {
	short := make([]string, len(known))
	for i, k := range known {
		short[i] = strings.ToLower(strings.TrimPrefix(k, EnvPrefix))
	}
	hint := near(strings.ToLower(strings.TrimPrefix(name, EnvPrefix)), short)
	if before, word, found := strings.Cut(hint, `"`); found {
		return before + `"` + EnvPrefix + strings.ToUpper(word)
	}
	return hint
}

// Changes lists the keys whose values differ between two configurations of one
// program, sorted.
func Changes(a, b *Config) []string {
	var keys []string
	for key, s := range a.settings {
		if s.text() != b.settings[key].text() {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// Hash tells configurations with different values apart.
func (c *Config) Hash() string {
	h := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(c.settings)) {
		fmt.Fprintf(h, "%s %q\n", key, c.settings[key].text())
	}
	return hex.EncodeToString(h.Sum(nil))
}
