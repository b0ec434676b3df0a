package template

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// Filled is what a template gives for values.
type Filled struct {
	Argv []string
	// Arguments are the values that were given, without secret ones.
	Arguments map[string]string
	Secrets   []*agentplanev1.Secret
}

// Fill fills the holes of a template that Check has found good.
func Fill(t *agentplanev1.TemplateSpec, values map[string]string) (*Filled, error) {
	f := &Filled{Arguments: map[string]string{}}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if parameter(t, name) == nil {
			return nil, fmt.Errorf("%w: there is no parameter %.80q; there are %s", ErrValue, name, names(t))
		}
	}
	whole := map[string]string{}
	for _, p := range t.GetParameters() {
		value, given := values[p.GetName()]
		switch {
		case !given && p.Default == nil:
			return nil, fmt.Errorf("%w: %s is missing, and has no default", ErrValue, p.GetName())
		case !given:
			whole[p.GetName()] = p.GetDefault()
			continue
		}
		if err := CheckValue(p, value); err != nil {
			return nil, err
		}
		if p.GetSecret() {
			f.Secrets = append(f.Secrets, &agentplanev1.Secret{Env: p.GetEnv(), Value: value})
			continue
		}
		whole[p.GetName()], f.Arguments[p.GetName()] = value, value
	}
	for _, arg := range t.GetArgv() {
		f.Argv = append(f.Argv, holeForm.ReplaceAllStringFunc(arg, func(hole string) string {
			if hole == "$$" {
				return "$"
			}
			return whole[strings.TrimSuffix(strings.TrimPrefix(hole, "${"), "}")]
		}))
	}
	return f, nil
}

func names(t *agentplanev1.TemplateSpec) string {
	var all []string
	for _, p := range t.GetParameters() {
		all = append(all, p.GetName())
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}

// Verify says why a command is none of the template.
func Verify(t *agentplanev1.TemplateSpec, spec *agentplanev1.CommandSpec) error {
	values := maps.Clone(spec.GetTemplate().GetArguments())
	if values == nil {
		values = map[string]string{}
	}
	for _, p := range t.GetParameters() {
		if _, shown := values[p.GetName()]; shown && p.GetSecret() {
			return fmt.Errorf("%w: %s is secret, and stands among the arguments", ErrValue, p.GetName())
		}
	}
	for _, s := range spec.GetSecrets() {
		i := slices.IndexFunc(t.GetParameters(), func(p *agentplanev1.Parameter) bool { return p.GetSecret() && p.GetEnv() == s.GetEnv() })
		if i < 0 {
			return fmt.Errorf("%w: there is no secret for the environment variable %.80q", ErrValue, s.GetEnv())
		}
		name := t.GetParameters()[i].GetName()
		if _, twice := values[name]; twice {
			return fmt.Errorf("%w: %s is given twice", ErrValue, name)
		}
		values[name] = s.GetValue()
	}
	f, err := Fill(t, values)
	switch {
	case err != nil:
		return err
	case !slices.Equal(f.Argv, spec.GetArgv()) || len(spec.GetScript()) > 0 || len(spec.GetSteps()) > 0:
		return fmt.Errorf("%w: the program is not what the template gives for the arguments", ErrValue)
	case spec.GetRunTimeout() != t.GetRunTimeout() || spec.GetKillGrace() != t.GetKillGrace() || spec.GetDelivery() != t.GetDelivery():
		return fmt.Errorf("%w: time limits and class are not the template's", ErrValue)
	}
	return nil
}
