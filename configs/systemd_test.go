package configs

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// unit reads a systemd unit: section, key, values in order.
func unit(t *testing.T, path string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	section := ""
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			section = strings.Trim(line, "[]")
		default:
			key, value, found := strings.Cut(line, "=")
			if !found || section == "" {
				t.Fatalf("%s:%d: %q is no setting", path, i+1, line)
			}
			out[section+"."+key] = append(out[section+"."+key], value)
		}
	}
	return out
}

func TestSystemdUnits(t *testing.T) {
	for path, tc := range map[string]struct {
		program  Program
		killMode string
	}{
		"systemd/agentplane.service": {ProgramNode, "mixed"},
		// Supervisors of running programs must outlive the agent.
		"systemd/agentd.service": {ProgramAgent, "process"},
	} {
		u := unit(t, path)
		for key, want := range map[string]string{
			"Service.Restart":                "always",
			"Service.KillMode":               tc.killMode,
			"Unit.StartLimitIntervalSec":     "0",
			"Service.StateDirectoryMode":     "0700",
			"Install.WantedBy":               "multi-user.target",
			"Service.TimeoutStopSec":         map[Program]string{ProgramNode: "60", ProgramAgent: "20"}[tc.program],
			"Service.StateDirectory":         tc.program.String(),
			"Service.ConfigurationDirectory": tc.program.String(),
		} {
			if got := u[key]; len(got) != 1 || got[0] != want {
				t.Errorf("%s: %s is %q, want %q", path, key, got, want)
			}
		}
		c, err := Load(Sources{Program: tc.program})
		if err != nil {
			t.Fatal(err)
		}
		if want := "/var/lib/" + u["Service.StateDirectory"][0]; c.settings["data_dir"].text() != want {
			t.Errorf("%s keeps its state in %s, but data_dir is %s", path, want, c.settings["data_dir"].text())
		}
		words := strings.Fields(u["Service.ExecStart"][0])
		if words[0] != "/usr/bin/"+tc.program.String() || words[1] != "run" {
			t.Errorf("%s starts %q", path, words)
		}
		fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
		fs.String("config", "", "")
		BindFlags(fs, tc.program)
		if err := fs.Parse(words[2:]); err != nil {
			t.Errorf("%s starts %q: %v", path, words, err)
		}
	}
	// What agentd starts inherits what its unit takes away.
	for key := range unit(t, "systemd/agentd.service") {
		for _, taken := range []string{"Protect", "Private", "NoNewPriv", "SystemCall", "Restrict", "Capability", "UMask", "MemoryDeny", "LockPersonality"} {
			if strings.HasPrefix(key, "Service."+taken) {
				t.Errorf("agentd.service has %s, which every program of an operator would inherit", key)
			}
		}
	}
}
