package agent

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/agentplane/agentplane/agent/agenttest"
	"github.com/agentplane/agentplane/configs"
)

// files are those of an agent's identity, by name.
func (h *host) files() map[string][]byte {
	h.t.Helper()
	all := map[string][]byte{}
	for _, name := range []string{recordFile, keyFile, nextKeyFile, certificateFile} {
		b, err := os.ReadFile(filepath.Join(h.dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			h.t.Fatal(err)
		}
		all[name] = b
	}
	return all
}

// put writes the files, and removes those without content.
func (h *host) put(files map[string][]byte) {
	h.t.Helper()
	for name, b := range files {
		path := filepath.Join(h.dir, name)
		err := os.WriteFile(path, b, 0o600)
		if b == nil {
			if err = os.Remove(path); errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
		}
		if err != nil {
			h.t.Fatal(err)
		}
	}
}

// listen keeps what the agent logs, for until.
func (h *host) listen() (until func(text string)) {
	lines := make(chan string, 1024)
	h.options = func(o *Options) {
		o.Logger = hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, DisableTime: true, Output: lineWriter(lines)})
	}
	return func(text string) {
		h.t.Helper()
		timeout := time.After(20 * time.Second)
		for {
			select {
			case line := <-lines:
				h.t.Log(line)
				if strings.Contains(line, text) {
					return
				}
			case <-timeout:
				h.t.Fatalf("the agent does not log %q", text)
			}
		}
	}
}

type lineWriter chan string

func (w lineWriter) Write(b []byte) (int, error) {
	select {
	case w <- strings.TrimRight(string(b), "\n"):
	default:
	}
	return len(b), nil
}

func TestReadmittedAgentEnrolsAgainWithANewKey(t *testing.T) {
	c := agenttest.NewCluster(t, 2)
	h := newHost(t, c)
	id := h.ready()
	c.Wait(c.Submit(id, c.Spec(h.mark("")...)))
	first, key, old := c.Agent(id), c.Key(id), h.files()
	h.stop()
	c.Readmit(id)

	// Neither without a token nor with the one it has enrolled with already.
	until := h.listen()
	h.start()
	until("is the one that it has enrolled with")
	h.stop()
	h.config.Token = ""
	h.start()
	until("no token is given")
	h.stop()
	if c.Key(id) != nil || !bytes.Equal(h.files()[keyFile], old[keyFile]) {
		t.Fatal("the key was changed without a new token")
	}

	h.config.Token = c.NewToken()
	h.start()
	if again := c.WaitReady(first.Epoch); again != id || len(c.Agents()) != 1 {
		t.Errorf("agents are %v and %s is ready, want %s alone", c.Agents(), again, id)
	}
	done := h.files()
	if c.Key(id).Equal(key) || bytes.Equal(done[keyFile], old[keyFile]) || done[nextKeyFile] != nil {
		t.Error("the key is the old one, or the next one lies beside it still")
	}
	h.stop()

	// A crash after the cluster has taken the new key, and before the answer was on disk.
	h.put(map[string][]byte{recordFile: old[recordFile], keyFile: old[keyFile], nextKeyFile: done[keyFile], certificateFile: old[certificateFile]})
	epoch := c.Agent(id).Epoch
	h.start()
	c.WaitReady(epoch)
	h.stop()

	// A crash between the certificate and its key.
	h.put(map[string][]byte{recordFile: old[recordFile], keyFile: old[keyFile], nextKeyFile: done[keyFile], certificateFile: done[certificateFile]})
	epoch = c.Agent(id).Epoch
	h.config.Token = ""
	h.start()
	c.WaitReady(epoch)
	if got := h.files(); !bytes.Equal(got[keyFile], done[keyFile]) || got[nextKeyFile] != nil {
		t.Error("the next key was not given its name")
	}
	h.stop()

	// What has the old key still is not let in.
	h.put(old)
	h.config.Token = c.NewToken()
	h.start()
	until("another key has this id")
}

func TestReadmittedAgentWithoutItsFilesKeepsItsID(t *testing.T) {
	for name, gone := range map[string][]string{"certificate": {certificateFile}, "key and certificate": {keyFile, certificateFile}} {
		t.Run(name, func(t *testing.T) {
			c := agenttest.NewCluster(t, 1)
			h := newHost(t, c)
			id := h.ready()
			epoch := c.Agent(id).Epoch
			h.stop()
			c.Readmit(id)
			for _, name := range gone {
				h.put(map[string][]byte{name: nil})
			}
			h.config.Token = c.NewToken()
			h.start()
			if again := c.WaitReady(epoch); again != id {
				t.Errorf("%s is ready, want %s", again, id)
			}
		})
	}
}

func TestRemovedAgentStaysAwayUntilItHasANewToken(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	until := h.listen()
	id := h.ready()
	c.Remove(id) // while it runs
	until("is the one that it has enrolled with")
	if a := c.Agents(); len(a) != 0 {
		t.Fatalf("agents are %v, want none", a)
	}
	h.stop()
	h.config.Token = c.NewToken()
	h.start()
	if again := c.WaitReady(0); again != id {
		t.Errorf("%s is ready, want %s", again, id)
	}
}

func TestDamagedFilesAreNamed(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	h.stop()
	good := h.files()
	trust, err := os.ReadFile(filepath.Join(h.dir, trustFile))
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct{ file, content string }{
		"a key that is none":             {keyFile, "nonsense"},
		"a key of another agent":         {keyFile, otherKey(t)},
		"a certificate that is none":     {certificateFile, "nonsense"},
		"a record that is none":          {recordFile, "{"},
		"a record of another agent":      {recordFile, strings.Replace(string(good[recordFile]), id, "x"+id[1:], 1)},
		"no record beside a certificate": {recordFile, ""},
		"a trust bundle that is none":    {trustFile, "nonsense"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, c, func(a *configs.Agent) { a.DataDir = h.dir })
			h.dir = h.config.DataDir
			content := []byte(x.content)
			if x.content == "" {
				content = nil
			}
			h.put(map[string][]byte{x.file: content})
			defer h.put(good)
			defer h.put(map[string][]byte{trustFile: trust})
			h.start()
			h.cancel = nil
			select {
			case err := <-h.done:
				if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), filepath.Join(h.dir, x.file)) {
					t.Errorf("Run = %v, want ErrDamaged of %s", err, x.file)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("Run goes on")
			}
		})
	}
}

func otherKey(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	d := directory{path: filepath.Dir(path)}
	if _, err := d.openKey("key"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
