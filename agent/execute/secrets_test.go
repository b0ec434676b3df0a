package execute

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecretsReachTheProgramAndStayNowhere(t *testing.T) {
	s := shell(`echo "got $DB_PASSWORD"; tr '\0' ' ' </proc/$$/cmdline; ls "$(dirname "$0")"`)
	s.Env = []string{"MINE=yes"}
	s.Secrets = []string{"DB_PASSWORD=hunter2"}
	r, _ := newRunner(t)
	res := wait(t, start(t, r, s))
	wantResult(t, res, Succeeded, ReasonExit)
	out := text(res.Head, Stdout)
	if !strings.Contains(out, "got hunter2\n") || strings.Count(out, "hunter2") != 1 {
		t.Errorf("the program printed %q", out)
	}
	// What it printed is its own; nothing else on disk holds it.
	must(t, filepath.WalkDir(r.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(d.Name(), fileOutput) || d.Name() == fileExit {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte("hunter2")) || d.Name() == fileSecrets {
			t.Errorf("%s is left and holds %q", path, b)
		}
		return err
	}))
}

func TestSecretsAreForgottenWhenNothingStarts(t *testing.T) {
	s := shell("exit 0")
	s.Argv, s.Script = []string{"/no/such/program"}, nil
	s.Secrets = []string{"DB_PASSWORD=hunter2"}
	r, _ := newRunner(t)
	res := wait(t, start(t, r, s))
	wantResult(t, res, Failed, ReasonNotFound)
	if r.directory(s.Attempt).has(fileSecrets) {
		t.Error("the secrets are left")
	}
}

func TestSecretsThatACrashHasLeftAreForgotten(t *testing.T) {
	dir := t.TempDir()
	for _, file := range []string{"undo", "keep", "secret"} {
		must(t, os.WriteFile(filepath.Join(dir, file), nil, 0o600))
	}
	if out, err := life(t, dir, "after-finish").CombinedOutput(); !killed(err) {
		t.Fatalf("the agent ended with %v: %s", err, out)
	}
	r, err := Open(Options{Dir: filepath.Join(dir, "runs"), Journal: &memory{}})
	must(t, err)
	a := shell("").Attempt
	later := r.directory(a).path(fileLater)
	if !exists(later) {
		t.Fatal("the crash has left none")
	}
	must(t, r.ForgetSecrets(a))
	must(t, r.ForgetSecrets(a))
	if exists(later) {
		t.Error("they are left")
	}
	if err := r.ForgetSecrets(Attempt{InvocationID: "../x"}); err == nil {
		t.Error("an id that is a path is taken")
	}
}

func TestSecretsForReservedNamesAreRefusedWithoutTheirValues(t *testing.T) {
	for _, secret := range []string{"PATH=hunter2", "AGENTPLANE_FENCE=hunter2", "=hunter2", "hunter2", "A=hunter2\x00"} {
		s := shell("true")
		s.Secrets = []string{secret}
		if err := s.Validate(); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", secret, err)
		}
	}
}
