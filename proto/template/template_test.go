package template_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/template"
)

const restart = `
description: restart a service
argv: [restart, --wait, "${wait}", "unit=${name}.service", "-n${times}", "--dry=${dry}", $$HOME]
parameters:
  - {name: name, values: [nginx, redis], description: which}
  - {name: wait, type: duration, default: 10s, max: 1m}
  - {name: times, type: int, min: 1, max: 9, default: "1"}
  - {name: dry, type: bool, default: "false"}
  - {name: password, secret: true, env: DB_PASSWORD}
timeout: 5m
class: idempotent
`

func parse(t *testing.T, text string) *agentplanev1.TemplateSpec {
	t.Helper()
	spec, err := template.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func TestFillGivesArgumentsAndKeepsSecretsApart(t *testing.T) {
	spec := parse(t, restart)
	f, err := template.Fill(spec, map[string]string{"name": "redis", "times": "3", "password": "hunter2"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"restart", "--wait", "10s", "unit=redis.service", "-n3", "--dry=false", "$HOME"}
	if !slices.Equal(f.Argv, want) {
		t.Errorf("argv %q, want %q", f.Argv, want)
	}
	if len(f.Arguments) != 2 || f.Arguments["name"] != "redis" || f.Arguments["times"] != "3" {
		t.Errorf("arguments %v", f.Arguments)
	}
	if len(f.Secrets) != 1 || f.Secrets[0].Env != "DB_PASSWORD" || f.Secrets[0].Value != "hunter2" {
		t.Errorf("secrets %v", f.Secrets)
	}
}

func TestFillRefusesWhatDoesNotFit(t *testing.T) {
	spec := parse(t, restart)
	good := map[string]string{"name": "redis", "password": "hunter2"}
	for name, c := range map[string]struct{ key, value, says string }{
		"a word that is none of the enum": {"name", "sshd", "none of nginx, redis"},
		"a number above the bound":        {"times", "10", "above the maximum 9"},
		"a number below the bound":        {"times", "0", "below the minimum 1"},
		"no number":                       {"times", "1e3", "no whole number"},
		"a number in another spelling":    {"times", "01", "no whole number"},
		"a duration above the bound":      {"wait", "2m", "above the maximum 1m0s"},
		"no duration":                     {"wait", "soon", "no duration"},
		"another truth":                   {"dry", "maybe", "neither true nor false"},
		"a parameter that is not there":   {"colour", "red", "there is no parameter"},
		"an empty secret":                 {"password", "", "what was given is no string"},
		"a secret with a line break":      {"password", "hunter3\n", "what was given is no string"},
	} {
		t.Run(name, func(t *testing.T) {
			values := map[string]string{c.key: c.value}
			for k, v := range good {
				if _, set := values[k]; !set {
					values[k] = v
				}
			}
			_, err := template.Fill(spec, values)
			if !errors.Is(err, template.ErrValue) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q in it", err, c.says)
			}
			if err != nil && strings.Contains(err.Error(), "hunter") {
				t.Errorf("the error tells the secret: %v", err)
			}
		})
	}
	if _, err := template.Fill(spec, map[string]string{"name": "redis"}); err == nil || !strings.Contains(err.Error(), "password is missing") {
		t.Errorf("without the secret: %v", err)
	}
}

func TestATextIsNoOptionUnlessItsPatternSaysSo(t *testing.T) {
	plain := parse(t, "argv: [cat, '${file}']\nparameters: [{name: file}]")
	for _, value := range []string{"-n", "a\x00", "a\nb", "\xff"} {
		if _, err := template.Fill(plain, map[string]string{"file": value}); err == nil {
			t.Errorf("%q is taken", value)
		}
	}
	allowed := parse(t, "argv: [cat, '${file}']\nparameters: [{name: file, pattern: '-?[a-z]+'}]")
	if f, err := template.Fill(allowed, map[string]string{"file": "-n"}); err != nil || f.Argv[1] != "-n" {
		t.Errorf("%v, %v", f, err)
	}
	for _, value := range []string{"a b", "a\n", "x; rm -rf /"} { // all of it has to match
		if _, err := template.Fill(allowed, map[string]string{"file": value}); err == nil {
			t.Errorf("%q is taken", value)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for text, says := range map[string]string{
		"":         "empty",
		"argv: []": "names no program",
		"argv: ['${p}']\nparameters: [{name: p}]":                                                   "which program it is",
		"argv: [a, '${b}']":                                                                         `no parameter "b"`,
		"argv: [a, $b]":                                                                             "neither ${NAME} nor $$",
		"argv: [a]\nparameters: [{name: b}]":                                                        "stands nowhere",
		"argv: [a, '${b}']\nparameters: [{name: b}, {name: b}]":                                     "stands twice",
		"argv: [a, '${b}']\nparameters: [{name: b, secret: true, env: B}]":                          "is secret",
		"argv: [a]\nparameters: [{name: b, secret: true, env: AGENTPLANE_X}]":                       "reserved",
		"argv: [a]\nparameters: [{name: b, secret: true, env: LD_PRELOAD}]":                         "reserved",
		"argv: [a]\nparameters: [{name: b, secret: true, env: B, default: x}]":                      "no default",
		"argv: [a]\nparameters: [{name: b, secret: true, env: B}, {name: c, secret: true, env: B}]": "another parameter's",
		"argv: [a, '${b}']\nparameters: [{name: b, type: float}]":                                   "none of string",
		"argv: [a, '${b}']\nparameters: [{name: b, type: int, default: x}]":                         "default: the value does not fit",
		"argv: [a, '${b}']\nparameters: [{name: b, pattern: '('}]":                                  `pattern "(": missing closing ): "("`,
		"argv: [a, '${b}']\nparameters: [{name: b, type: enum}]":                                    "values",
		"argv: [a, '${b}']\nparameters: [{name: b, type: int, min: 2, max: 1}]":                     "above max",
		"argv: [a, '${B}']\nparameters: [{name: B}]":                                                "small letters",
		"argv: [a]\nshell: true":                                                                    `line 2: there is no key "shell"; there are description, argv,`,
		"argv: uptime":                                                                              `line 1: "uptime" stands where a list, as [a, b], is wanted`,
		"argv: [a]\nargv: [b]":                                                                      `line 2: the key "argv" stands at line 1 already`,
		"argv: [a]\nclass: [b]":                                                                     `line 2: a list stands where a text is wanted`,
		"argv: [a]\nparameters: {b: c}":                                                             `line 2: a mapping stands where a list`,
		"argv: [a, '${b}']\nparameters: [b]":                                                        `stands where a mapping, as {name: value}, is wanted`,
		"argv: [a, '${b}']\nparameters: [{nam: b}]":                                                 `line 2: there is no key "nam"; there are name, type,`,
		"argv: [a, '${b}']\nparameters: [{name: b, secret: maybe}]":                                 `"maybe" stands where true or false is wanted`,
		"argv: [a":                  "it is no YAML: line 1",
		"argv: [a]\ntimeout: -1s":   "above 0",
		"argv: [a]\nclass: twice":   "neither at-most-once",
		"argv: [a]\n---\nargv: [b]": "more than one",
	} {
		if _, err := template.Parse([]byte(text)); !errors.Is(err, template.ErrTemplate) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: got %v, want %q in it", text, err, says)
		}
	}
}

func commandOf(t *testing.T, spec *agentplanev1.TemplateSpec, values map[string]string) *agentplanev1.CommandSpec {
	t.Helper()
	f, err := template.Fill(spec, values)
	if err != nil {
		t.Fatal(err)
	}
	return &agentplanev1.CommandSpec{
		Argv: f.Argv, Secrets: f.Secrets, Template: &agentplanev1.TemplateUse{Name: "restart", Version: 1, Arguments: f.Arguments},
		RunTimeout: spec.GetRunTimeout(), KillGrace: spec.GetKillGrace(), Delivery: spec.GetDelivery(),
	}
}

func TestVerifyLetsNothingElsePass(t *testing.T) {
	spec := parse(t, restart)
	good := commandOf(t, spec, map[string]string{"name": "redis", "password": "hunter2"})
	if err := template.Verify(spec, good); err != nil {
		t.Fatalf("what Fill gave: %v", err)
	}
	for name, edit := range map[string]func(*agentplanev1.CommandSpec){
		"another program":           func(s *agentplanev1.CommandSpec) { s.Argv[0] = "rm" },
		"another argument":          func(s *agentplanev1.CommandSpec) { s.Argv[3] = "unit=sshd.service" },
		"one more argument":         func(s *agentplanev1.CommandSpec) { s.Argv = append(s.Argv, "x") },
		"a script":                  func(s *agentplanev1.CommandSpec) { s.Script = []byte("x") },
		"a value that does not fit": func(s *agentplanev1.CommandSpec) { s.Template.Arguments["name"] = "sshd" },
		"an argument more":          func(s *agentplanev1.CommandSpec) { s.Template.Arguments["x"] = "y" },
		"the secret shown":          func(s *agentplanev1.CommandSpec) { s.Template.Arguments["password"] = "hunter2" },
		"no secret":                 func(s *agentplanev1.CommandSpec) { s.Secrets = nil },
		"the secret twice":          func(s *agentplanev1.CommandSpec) { s.Secrets = append(s.Secrets, s.Secrets[0]) },
		"an environment of its own": func(s *agentplanev1.CommandSpec) { s.Secrets[0].Env = "LD_PRELOAD" },
		"more time":                 func(s *agentplanev1.CommandSpec) { s.RunTimeout++ },
		"another class":             func(s *agentplanev1.CommandSpec) { s.Delivery = agentplanev1.Delivery_DELIVERY_AT_MOST_ONCE },
	} {
		t.Run(name, func(t *testing.T) {
			s := proto.CloneOf(good)
			edit(s)
			if err := template.Verify(spec, s); !errors.Is(err, template.ErrValue) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Whatever values are taken, each stands where its hole was and nowhere else.
func TestAValueStaysAValue(t *testing.T) {
	spec := parse(t, "argv: [p, 'a${x}b', '${y}', $$x]\nparameters: [{name: x}, {name: y, pattern: '(?s).*'}]")
	rapid.Check(t, func(t *rapid.T) {
		x, y := rapid.String().Draw(t, "x"), rapid.String().Draw(t, "y")
		f, err := template.Fill(spec, map[string]string{"x": x, "y": y})
		if err != nil {
			return
		}
		if want := []string{"p", "a" + x + "b", y, "$x"}; !slices.Equal(f.Argv, want) {
			t.Fatalf("argv %q, want %q", f.Argv, want)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(restart))
	f.Add([]byte("argv: [a, '${b}']\nparameters: [{name: b}]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		spec, err := template.Parse(b)
		if err != nil {
			return
		}
		if err := template.Check(spec); err != nil {
			t.Fatalf("what was parsed is not good: %v", err)
		}
	})
}
