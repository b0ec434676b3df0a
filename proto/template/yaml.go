package template

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// What package yaml says of a text that is none of a template. Its words are of Go's
// types, which nobody who writes a template knows.
var (
	unknownKey  = regexp.MustCompile(`^line (\d+): field (.*) not found in type template\.(\w+)$`)
	wrongKind   = regexp.MustCompile("(?s)^line (\\d+): cannot unmarshal !!(\\w+)(?: `(.*)`)? into (\\S+)$")
	definedKey  = regexp.MustCompile(`^line (\d+): mapping key "(.*)" already defined at line (\d+)$`)
	keysOfTypes = map[string]string{
		"file":          "description, argv, parameters, timeout, kill_grace, class",
		"fileParameter": "name, type, description, pattern, values, min, max, default, secret, env",
	}
	kinds = map[string]string{"seq": "a list", "map": "a mapping", "str": "a text", "int": "a number", "float": "a number", "bool": "true or false", "null": "nothing"}
)

// yamlError says what is wrong with the text, in the words of those who write it.
func yamlError(err error) error {
	wrong, ok := errors.AsType[*yaml.TypeError](err)
	if !ok {
		return bad("it is no YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	var all []string
	for _, text := range wrong.Errors {
		all = append(all, yamlWords(text))
	}
	return bad("%s", strings.Join(all, "; "))
}

func yamlWords(text string) string {
	if m := unknownKey.FindStringSubmatch(text); m != nil {
		return fmt.Sprintf("line %s: there is no key %.80q; there are %s", m[1], m[2], keysOfTypes[m[3]])
	}
	if m := definedKey.FindStringSubmatch(text); m != nil {
		return fmt.Sprintf("line %s: the key %.80q stands at line %s already", m[1], m[2], m[3])
	}
	m := wrongKind.FindStringSubmatch(text)
	if m == nil {
		return text
	}
	have, want := kinds[m[2]], "a text"
	switch into := m[4]; {
	case have == "":
		have = "something else"
	case strings.HasPrefix(into, "[]"):
		want = "a list, as [a, b],"
	case into == "bool":
		want = "true or false"
	case strings.HasPrefix(into, "template."):
		want = "a mapping, as {name: value},"
	}
	if m[3] != "" {
		have = fmt.Sprintf("%.80q", m[3])
	}
	return fmt.Sprintf("line %s: %s stands where %s is wanted", m[1], have, want)
}
