package template

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// Bounds of a template and its values.
const (
	MaxArgs       = 256
	MaxParameters = 32
	MaxValues     = 64
	MaxValueBytes = 4096
	MaxTextBytes  = 1024 // of descriptions, patterns and arguments with holes
)

var (
	nameForm = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)
	envForm  = regexp.MustCompile(`^[A-Z_][A-Z0-9_]{0,63}$`)
	holeForm = regexp.MustCompile(`\$(\$|\{[^}]*\}|.?)`)
)

// ErrTemplate is what every complaint about a template wraps, and ErrValue every one about
// a value.
var (
	ErrTemplate = errors.New("the template is not usable")
	ErrValue    = errors.New("the value does not fit")
)

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrTemplate, fmt.Sprintf(format, args...))
}

// Check says what is wrong with a template.
func Check(t *agentplanev1.TemplateSpec) error {
	switch {
	case len(t.GetArgv()) == 0 || t.GetArgv()[0] == "":
		return bad("argv names no program")
	case len(t.GetArgv()) > MaxArgs:
		return bad("argv has %d arguments, at most %d are allowed", len(t.GetArgv()), MaxArgs)
	case strings.Contains(t.GetArgv()[0], "${"):
		return bad("argv[0] %.100q: which program it is stands in the template, not in a parameter", t.GetArgv()[0])
	case len(t.GetParameters()) > MaxParameters:
		return bad("it has %d parameters, at most %d are allowed", len(t.GetParameters()), MaxParameters)
	case len(t.GetDescription()) > MaxTextBytes || !printable(t.GetDescription()):
		return bad("the description is above %d bytes, or not one line", MaxTextBytes)
	case t.GetRunTimeout() < 0 || t.GetKillGrace() < 0:
		return bad("timeout %v and kill grace %v must not be below zero", time.Duration(t.GetRunTimeout()), time.Duration(t.GetKillGrace()))
	case t.GetDelivery() < 0 || t.GetDelivery() > agentplanev1.Delivery_DELIVERY_IDEMPOTENT:
		return bad("class %d is none of at-most-once, idempotent", t.GetDelivery())
	}
	seen, envs := map[string]bool{}, map[string]bool{}
	for _, p := range t.GetParameters() {
		if seen[p.GetName()] {
			return bad("parameter %q stands twice", p.GetName())
		}
		seen[p.GetName()] = true
		if err := checkParameter(p); err != nil {
			return err
		}
		if p.GetSecret() && envs[p.GetEnv()] {
			return bad("parameter %q: env %s is another parameter's", p.GetName(), p.GetEnv())
		}
		envs[p.GetEnv()] = true
	}
	return checkHoles(t)
}

func checkParameter(p *agentplanev1.Parameter) error {
	fail := func(format string, args ...any) error {
		return bad("parameter %q: %s", p.GetName(), fmt.Sprintf(format, args...))
	}
	kind := p.GetType()
	bounded := kind == agentplanev1.ParameterType_PARAMETER_TYPE_INT || kind == agentplanev1.ParameterType_PARAMETER_TYPE_DURATION
	switch {
	case !nameForm.MatchString(p.GetName()):
		return bad("parameter %.80q: a name has small letters, digits and _, and begins with a letter", p.GetName())
	case kind <= agentplanev1.ParameterType_PARAMETER_TYPE_UNSPECIFIED || kind > agentplanev1.ParameterType_PARAMETER_TYPE_DURATION:
		return fail("type is none of string, int, bool, enum, duration")
	case len(p.GetDescription()) > MaxTextBytes || len(p.GetPattern()) > MaxTextBytes || !printable(p.GetDescription()):
		return fail("description or pattern is above %d bytes, or the description not one line", MaxTextBytes)
	case p.GetPattern() != "" && kind != agentplanev1.ParameterType_PARAMETER_TYPE_STRING:
		return fail("a pattern is for type string")
	case (kind == agentplanev1.ParameterType_PARAMETER_TYPE_ENUM) != (len(p.GetValues()) > 0):
		return fail("values are what type enum has, and no other")
	case len(p.GetValues()) > MaxValues:
		return fail("%d values, at most %d are allowed", len(p.GetValues()), MaxValues)
	case !bounded && (p.Min != nil || p.Max != nil):
		return fail("min and max are for types int and duration")
	case p.Min != nil && p.Max != nil && p.GetMin() > p.GetMax():
		return fail("min %d is above max %d", p.GetMin(), p.GetMax())
	case p.GetSecret() && p.Default != nil:
		return fail("a secret has no default: everybody would read it")
	case !p.GetSecret() && p.GetEnv() != "":
		return fail("env is for a secret; others stand in argv as ${%s}", p.GetName())
	case p.GetSecret() && (!envForm.MatchString(p.GetEnv()) || reserved(p.GetEnv())):
		return fail("env %.80q is no name for an environment variable of capital letters, digits and _, or is a reserved one", p.GetEnv())
	}
	if _, err := regexp.Compile(p.GetPattern()); err != nil {
		why := "it is no regular expression"
		if wrong, ok := errors.AsType[*syntax.Error](err); ok {
			why = fmt.Sprintf("%s: %.80q", wrong.Code, wrong.Expr)
		}
		return fail("pattern %.80q: %s", p.GetPattern(), why)
	}
	for i, v := range p.GetValues() {
		if err := text(v); err != nil || v == "" || slices.Contains(p.GetValues()[:i], v) {
			return fail("value %.80q is empty, stands twice, or is no plain text", v)
		}
	}
	if p.Default != nil {
		if err := CheckValue(p, p.GetDefault()); err != nil {
			return fail("default: %v", err)
		}
	}
	return nil
}

// reserved says whether a program finds something else in the variable, or what loads it
// does.
func reserved(env string) bool {
	return strings.HasPrefix(env, "AGENTPLANE_") || strings.HasPrefix(env, "LD_") || env == "TRACEPARENT" || env == "PATH"
}

// checkHoles says whether every hole is a parameter's that may stand there, and every
// parameter has one.
func checkHoles(t *agentplanev1.TemplateSpec) error {
	used := map[string]bool{}
	for i, arg := range t.GetArgv() {
		if len(arg) > MaxTextBytes || strings.IndexByte(arg, 0) >= 0 || !utf8.ValidString(arg) {
			return bad("argv[%d] is above %d bytes, or no text", i, MaxTextBytes)
		}
		for _, hole := range holeForm.FindAllString(arg, -1) {
			if hole == "$$" {
				continue
			}
			name, ok := strings.CutPrefix(hole, "${")
			p := parameter(t, strings.TrimSuffix(name, "}"))
			switch {
			case !ok:
				return bad("argv[%d] %.100q: %q is neither ${NAME} nor $$, a dollar sign", i, arg, hole)
			case p == nil:
				return bad("argv[%d] %.100q: there is no parameter %q", i, arg, strings.TrimSuffix(name, "}"))
			case p.GetSecret():
				return bad("argv[%d] %.100q: %q is secret, and everybody on the host sees arguments: let the program read $%s", i, arg, p.GetName(), p.GetEnv())
			}
			used[p.GetName()] = true
		}
	}
	for _, p := range t.GetParameters() {
		if !p.GetSecret() && !used[p.GetName()] {
			return bad("parameter %q stands nowhere in argv", p.GetName())
		}
	}
	return nil
}

func parameter(t *agentplanev1.TemplateSpec, name string) *agentplanev1.Parameter {
	for _, p := range t.GetParameters() {
		if p.GetName() == name {
			return p
		}
	}
	return nil
}

// CheckValue says why a value is none for the parameter. The error does not hold the value
// of a secret.
func CheckValue(p *agentplanev1.Parameter, value string) error {
	err := checkValue(p, value)
	if err == nil {
		return nil
	}
	if p.GetSecret() {
		return fmt.Errorf("%w: %s is secret, and what was given is no %s", ErrValue, p.GetName(), TypeWord(p))
	}
	return fmt.Errorf("%w: %s=%.80q: %w", ErrValue, p.GetName(), value, err)
}

func checkValue(p *agentplanev1.Parameter, value string) error {
	if p.GetSecret() && value == "" {
		return errors.New("it is empty")
	}
	if len(value) > MaxValueBytes {
		return fmt.Errorf("it has %d bytes, at most %d are allowed", len(value), MaxValueBytes)
	}
	switch p.GetType() {
	case agentplanev1.ParameterType_PARAMETER_TYPE_INT:
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || strconv.FormatInt(n, 10) != value {
			return errors.New("it is no whole number")
		}
		return within(p, n, func(n int64) string { return strconv.FormatInt(n, 10) })
	case agentplanev1.ParameterType_PARAMETER_TYPE_BOOL:
		if value != "true" && value != "false" {
			return errors.New("it is neither true nor false")
		}
		return nil
	case agentplanev1.ParameterType_PARAMETER_TYPE_ENUM:
		if !slices.Contains(p.GetValues(), value) {
			return fmt.Errorf("it is none of %s", strings.Join(p.GetValues(), ", "))
		}
		return nil
	case agentplanev1.ParameterType_PARAMETER_TYPE_DURATION:
		d, err := time.ParseDuration(value)
		if err != nil {
			return errors.New("it is no duration, like 90s or 2h")
		}
		return within(p, int64(d), func(n int64) string { return time.Duration(n).String() })
	}
	if p.GetPattern() == "" {
		if strings.HasPrefix(value, "-") && !p.GetSecret() {
			return errors.New("it begins with a dash, which would make it an option of the program; a pattern may allow that")
		}
		return text(value)
	}
	re, err := regexp.Compile(`^(?:` + p.GetPattern() + `)$`)
	if err != nil {
		return err
	}
	if strings.IndexByte(value, 0) >= 0 || !utf8.ValidString(value) || !re.MatchString(value) {
		return fmt.Errorf("it does not match %s", p.GetPattern())
	}
	return nil
}

func within(p *agentplanev1.Parameter, n int64, show func(int64) string) error {
	switch {
	case p.Min != nil && n < p.GetMin():
		return fmt.Errorf("it is below the minimum %s", show(p.GetMin()))
	case p.Max != nil && n > p.GetMax():
		return fmt.Errorf("it is above the maximum %s", show(p.GetMax()))
	}
	return nil
}

func text(s string) error {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return errors.New("it has control characters, or is no UTF-8")
	}
	return nil
}

func printable(s string) bool { return text(s) == nil }

// TypeWord is the type of a parameter as templates spell it.
func TypeWord(p *agentplanev1.Parameter) string {
	return strings.ToLower(strings.TrimPrefix(p.GetType().String(), "PARAMETER_TYPE_"))
}
