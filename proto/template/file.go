package template

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// MaxFileBytes bounds the file of a template.
const MaxFileBytes = 64 << 10

// file is a template as people write it.
type file struct {
	Description string          `yaml:"description"`
	Argv        []string        `yaml:"argv"`
	Parameters  []fileParameter `yaml:"parameters"`
	Timeout     string          `yaml:"timeout"`
	KillGrace   string          `yaml:"kill_grace"`
	Class       string          `yaml:"class"`
}

type fileParameter struct {
	Name        string   `yaml:"name"`
	Type        string   `yaml:"type"`
	Description string   `yaml:"description"`
	Pattern     string   `yaml:"pattern"`
	Values      []string `yaml:"values"`
	Min         string   `yaml:"min"`
	Max         string   `yaml:"max"`
	Default     *string  `yaml:"default"`
	Secret      bool     `yaml:"secret"`
	Env         string   `yaml:"env"`
}

var types = map[string]agentplanev1.ParameterType{
	"string": agentplanev1.ParameterType_PARAMETER_TYPE_STRING, "int": agentplanev1.ParameterType_PARAMETER_TYPE_INT,
	"bool": agentplanev1.ParameterType_PARAMETER_TYPE_BOOL, "enum": agentplanev1.ParameterType_PARAMETER_TYPE_ENUM,
	"duration": agentplanev1.ParameterType_PARAMETER_TYPE_DURATION,
}

// Parse reads a template from YAML and checks it. Keys that it does not know are errors.
func Parse(b []byte) (*agentplanev1.TemplateSpec, error) {
	if len(b) > MaxFileBytes {
		return nil, bad("the file has %d bytes, at most %d are allowed", len(b), MaxFileBytes)
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	var f file
	if err := d.Decode(&f); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, bad("the file is empty")
		}
		return nil, yamlError(err)
	}
	if err := d.Decode(new(file)); !errors.Is(err, io.EOF) {
		return nil, bad("the file holds more than one template")
	}
	t := &agentplanev1.TemplateSpec{Description: f.Description, Argv: f.Argv}
	var err error
	if t.RunTimeout, err = span("timeout", f.Timeout); err != nil {
		return nil, err
	}
	if t.KillGrace, err = span("kill_grace", f.KillGrace); err != nil {
		return nil, err
	}
	switch f.Class {
	case "", "at-most-once":
		t.Delivery = agentplanev1.Delivery_DELIVERY_AT_MOST_ONCE
	case "idempotent":
		t.Delivery = agentplanev1.Delivery_DELIVERY_IDEMPOTENT
	default:
		return nil, bad("class %.80q is neither at-most-once nor idempotent", f.Class)
	}
	for _, p := range f.Parameters {
		made, err := p.parameter()
		if err != nil {
			return nil, err
		}
		t.Parameters = append(t.Parameters, made)
	}
	return t, Check(t)
}

func span(key, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, bad("%s: %.80q is no duration above 0, like 90s or 2h", key, text)
	}
	return int64(d), nil
}

func (p *fileParameter) parameter() (*agentplanev1.Parameter, error) {
	word := p.Type
	switch {
	case word == "" && len(p.Values) > 0:
		word = "enum"
	case word == "":
		word = "string"
	}
	kind, ok := types[word]
	if !ok {
		return nil, bad("parameter %q: type %.80q is none of string, int, bool, enum, duration", p.Name, p.Type)
	}
	made := &agentplanev1.Parameter{
		Name: p.Name, Type: kind, Description: p.Description, Pattern: p.Pattern, Values: p.Values,
		Default: p.Default, Secret: p.Secret, Env: p.Env,
	}
	for _, bound := range []struct {
		key, text string
		into      **int64
	}{{"min", p.Min, &made.Min}, {"max", p.Max, &made.Max}} {
		if bound.text == "" {
			continue
		}
		n, err := strconv.ParseInt(bound.text, 10, 64)
		if kind == agentplanev1.ParameterType_PARAMETER_TYPE_DURATION {
			var d time.Duration
			d, err = time.ParseDuration(bound.text)
			n = int64(d)
		}
		if err != nil {
			return nil, bad("parameter %q: %s: %.80q is no %s", p.Name, bound.key, bound.text, word)
		}
		*bound.into = &n
	}
	return made, nil
}
