package configs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

const maxFileBytes = 1 << 20

// loadFile reads the YAML file into c.
func (c *Config) loadFile(path string) []*LoadError {
	f := &fileLoader{config: c, path: path, lines: map[string]int{}}
	content, mode, err := readFile(path)
	if err != nil {
		return append(f.problems, &LoadError{Origin{Layer: LayerFile, Name: path}, "", err.Error()})
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var document yaml.Node
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		return nil // nothing but comments
	case err != nil:
		return append(f.problems, &LoadError{Origin{Layer: LayerFile, Name: path}, "", strings.TrimPrefix(err.Error(), "yaml: ")})
	}
	var second yaml.Node
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		f.fail(&second, "", "has a second document behind ---: only one is read")
	}
	f.section(document.Content[0], "")
	f.refuseReadableSecrets(mode)
	return f.problems
}

// readFile refuses what must not be believed. A file that anybody may write is
// refused because whoever writes it commands the daemon, which often is root; a
// group may write, since configuration management works that way. Its owner is
// not looked at: in containers it is often neither root nor the reader.
func readFile(path string) ([]byte, os.FileMode, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, reasonOf(err)
	}
	defer file.Close() // only read
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, 0, reasonOf(err)
	case !info.Mode().IsRegular():
		return nil, 0, fmt.Errorf("is not a regular file but %s", info.Mode().Type())
	case info.Mode().Perm()&0o002 != 0:
		return nil, 0, fmt.Errorf("may be written by everybody (mode %04o): type chmod o-w %s", info.Mode().Perm(), path)
	}
	content, err := io.ReadAll(io.LimitReader(file, maxFileBytes+1))
	switch {
	case err != nil:
		return nil, 0, reasonOf(err)
	case len(content) > maxFileBytes:
		return nil, 0, fmt.Errorf("is larger than the maximum %s", FormatBytes(maxFileBytes))
	}
	return content, info.Mode(), nil
}

// reasonOf drops operation and path of an error: the message names the file.
func reasonOf(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

type fileLoader struct {
	config   *Config
	path     string
	lines    map[string]int // of the keys seen
	problems []*LoadError
}

func (f *fileLoader) at(n *yaml.Node) Origin {
	return Origin{Layer: LayerFile, Name: f.path, Line: n.Line}
}

func (f *fileLoader) fail(n *yaml.Node, key, format string, args ...any) {
	f.problems = append(f.problems, &LoadError{f.at(n), key, fmt.Sprintf(format, args...)})
}

// section reads a mapping whose keys stand below prefix, which ends in a dot
// unless it is empty. Recursion ends where no option has the prefix.
func (f *fileLoader) section(n *yaml.Node, prefix string) {
	name := strings.TrimSuffix(prefix, ".")
	switch {
	case isNull(n):
		return // a section whose lines are all comments
	case n.Kind != yaml.MappingNode:
		f.fail(n, name, "wants a mapping of options, not %s", describe(n))
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		f.entry(n.Content[i], n.Content[i+1], prefix)
	}
}

func (f *fileLoader) entry(name, value *yaml.Node, prefix string) {
	if name.Kind != yaml.ScalarNode || name.Tag == "!!merge" {
		f.fail(name, strings.TrimSuffix(prefix, "."), "%s stands where the name of an option is expected", describe(name))
		return
	}
	key := prefix + name.Value
	if line, twice := f.lines[key]; twice {
		f.fail(name, key, "is set twice, first on line %d", line)
		return
	}
	f.lines[key] = name.Line
	o := lookup(f.config.program, key)
	switch {
	case o == nil && isSection(f.config.program, key):
		f.section(value, key+".")
	case o == nil, strings.Contains(name.Value, "."):
		reason := unknown(f.config.program, key)
		if strings.Contains(name.Value, ".") {
			reason = "is written nested in YAML: each part on its own line"
		}
		f.fail(name, key, "%s", reason)
	case isNull(value):
		f.fail(name, key, `has no value: remove the line, or write ""`)
	default:
		r, wrong := rawOf(value)
		if wrong != "" {
			f.fail(value, key, "%s", wrong)
			return
		}
		if p := f.config.set(o, r, f.at(name)); p != nil {
			f.problems = append(f.problems, p)
		}
	}
}

// refuseReadableSecrets keeps to the rule that secrets are for their owner alone.
func (f *fileLoader) refuseReadableSecrets(mode os.FileMode) {
	for _, o := range Options(f.config.program) {
		if s := f.config.settings[o.Key]; o.Secret && s.origin.Layer == LayerFile && mode.Perm()&0o077 != 0 {
			f.problems = append(f.problems, &LoadError{s.origin, o.Key, fmt.Sprintf(
				"is a secret, but others may read or write the file (mode %04o): type chmod 600 %s, or use token_file", mode.Perm(), f.path)})
		}
	}
}

// isSection reports whether options of p stand below key.
func isSection(p Program, key string) bool {
	for i := range table {
		if table[i].Readers&p != 0 && strings.HasPrefix(table[i].Key, key+".") {
			return true
		}
	}
	return false
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// rawOf takes the value of an option as it is written.
func rawOf(n *yaml.Node) (raw, string) {
	switch n.Kind {
	case yaml.ScalarNode:
		return raw{text: n.Value}, ""
	case yaml.SequenceNode:
		r := raw{items: []string{}}
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode || isNull(item) {
				return raw{}, fmt.Sprintf("has %s in its list, where a text is expected", describe(item))
			}
			r.items = append(r.items, item.Value)
		}
		return r, ""
	case yaml.MappingNode:
		r := raw{pairs: map[string]string{}}
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			if k.Kind != yaml.ScalarNode || k.Tag == "!!merge" || v.Kind != yaml.ScalarNode || isNull(v) {
				return raw{}, fmt.Sprintf("has %s on line %d, where NAME: VALUE is expected", describe(v), k.Line)
			}
			if _, twice := r.pairs[k.Value]; twice {
				return raw{}, fmt.Sprintf("has %q twice, again on line %d", k.Value, k.Line)
			}
			r.pairs[k.Value] = v.Value
		}
		return r, ""
	}
	return raw{}, fmt.Sprintf("is %s, which is not taken here", describe(n))
}

func describe(n *yaml.Node) string {
	switch {
	case isNull(n):
		return "nothing"
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.AliasNode:
		return "an alias (*" + n.Value + ")"
	case n.Tag == "!!merge":
		return "a merge key (<<)"
	default:
		return fmt.Sprintf("%q", n.Value)
	}
}
