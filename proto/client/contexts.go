package client

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/agentplane/agentplane/proto/identity"
)

var (
	// ErrNoContext says that there is no such context, or no contexts file at all.
	ErrNoContext = errors.New("no context")
	// ErrContexts says that the contexts file cannot be read: it is damaged, or others
	// may read it.
	ErrContexts = errors.New("read contexts file")
)

// NoContextError is ErrNoContext of a file that has other contexts.
type NoContextError struct {
	// Name is what was asked for; empty where none is current.
	Name string
	// Known are the names that there are.
	Known []string
	path  string
}

// Error lists those that there are.
func (e *NoContextError) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("no context of %q is the current one; there are: %s", e.path, strings.Join(e.Known, ", "))
	}
	return fmt.Sprintf("%v %q in %q; there are: %s", ErrNoContext, e.Name, e.path, strings.Join(e.Known, ", "))
}

// Is says that this is ErrNoContext.
func (e *NoContextError) Is(target error) bool { return target == ErrNoContext }

const (
	contextsFormat   = 1
	maxContextsBytes = 8 << 20
	// ContextsVariable names the contexts file in the environment.
	ContextsVariable = "AGENTCTL_CONFIG"
)

// Contexts is the file in which an operator's program keeps its contexts. It has
// private keys in it: mode 0600, replaced as a whole, and changed only under a
// lock of its own, so that several programs may write at once.
type Contexts struct{ path string }

// OpenContexts names the file; there need not be one yet.
func OpenContexts(path string) *Contexts { return &Contexts{path: path} }

// ContextsPath returns $AGENTCTL_CONFIG, or agentplane/agentctl.yaml in the
// user's configuration directory.
func ContextsPath(getenv func(string) string) (string, error) {
	if p := getenv(ContextsVariable); p != "" {
		return p, nil
	}
	home := getenv("HOME")
	if home == "" {
		return "", fmt.Errorf("find the contexts file: neither %s nor HOME is set", ContextsVariable)
	}
	return filepath.Join(home, ".config", "agentplane", "agentctl.yaml"), nil
}

// Path returns where the file is.
func (f *Contexts) Path() string { return f.path }

type contextsText struct {
	Format   int           `yaml:"format"`
	Current  string        `yaml:"current"`
	Contexts []contextText `yaml:"contexts"`
}

// Load returns the context of that name, or the current one for the empty name.
func (f *Contexts) Load(name string) (*Context, error) {
	t, err := f.read()
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = t.Current
	}
	i, err := f.find(t, name)
	if err != nil {
		return nil, err
	}
	c, err := t.Contexts[i].parse()
	if err != nil {
		return nil, fmt.Errorf("%w %q: %w", ErrContexts, f.path, err)
	}
	return c, nil
}

func (f *Contexts) find(t contextsText, name string) (int, error) {
	i := slices.IndexFunc(t.Contexts, func(c contextText) bool { return c.Name == name })
	switch {
	case i >= 0 && name != "":
		return i, nil
	case len(t.Contexts) == 0:
		return 0, fmt.Errorf("%w in %q", ErrNoContext, f.path)
	}
	return 0, &NoContextError{Name: name, Known: t.names(), path: f.path}
}

func (t *contextsText) names() []string {
	names := make([]string, len(t.Contexts))
	for i, c := range t.Contexts {
		names[i] = c.Name
	}
	return names
}

// Current returns the name of the current context, empty where there is none.
func (f *Contexts) Current() (string, error) {
	t, err := f.read()
	if errors.Is(err, ErrNoContext) {
		return "", nil
	}
	return t.Current, err
}

// Use makes the context of that name the current one.
func (f *Contexts) Use(name string) error {
	return f.change(func(t *contextsText) error {
		if _, err := f.find(*t, name); err != nil {
			return err
		}
		t.Current = name
		return nil
	})
}

// Delete takes the context of that name out, whatever its cluster; none is current then,
// if this one was.
func (f *Contexts) Delete(name string) error {
	return f.change(func(t *contextsText) error {
		i, err := f.find(*t, name)
		if err != nil {
			return err
		}
		t.delete(i)
		return nil
	})
}

func (t *contextsText) delete(i int) {
	if t.Current == t.Contexts[i].Name {
		t.Current = ""
	}
	t.Contexts = slices.Delete(t.Contexts, i, i+1)
}

// Find returns the first context that fits, or nil. A missing file has none.
func (f *Contexts) Find(fits func(*Context) bool) (*Context, error) {
	t, err := f.read()
	if errors.Is(err, ErrNoContext) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, text := range t.Contexts {
		c, err := text.parse()
		if err != nil {
			return nil, fmt.Errorf("%w %q: %w", ErrContexts, f.path, err)
		}
		if fits(c) {
			return c, nil
		}
	}
	return nil, nil
}

// Names returns the names of all contexts, in the order of the file.
func (f *Contexts) Names() ([]string, error) {
	t, err := f.read()
	if err != nil {
		return nil, err
	}
	return t.names(), nil
}

// Store puts the context in the place of the one of its name, or adds it, and
// makes it the current one. With an empty name it is given one: that of the
// context which this cluster has already, else "default" where that is free, else
// one made of the cluster's id. What it returns as nil is on disk.
func (f *Contexts) Store(c *Context) error {
	return f.change(func(t *contextsText) error {
		if err := t.put(c); err != nil {
			return err
		}
		t.Current = c.Name
		return nil
	})
}

// Keep is Store for a context that somebody else has made: the current one stays
// current. Only where there is none does this one become it.
func (f *Contexts) Keep(c *Context) error {
	return f.change(func(t *contextsText) error {
		if err := t.put(c); err != nil {
			return err
		}
		if t.Current == "" {
			t.Current = c.Name
		}
		return nil
	})
}

func (t *contextsText) put(c *Context) error {
	if c.Name == "" {
		c.Name = t.nameFor(c.ClusterID)
	}
	text, err := c.text()
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(t.Contexts, func(o contextText) bool { return o.Name == c.Name }); i >= 0 {
		t.Contexts[i] = text
	} else {
		t.Contexts = append(t.Contexts, text)
	}
	return nil
}

// Remove takes the context of that name out if it is of that cluster; none is
// current then, if this one was. One that has gone, or is another's, is let be.
func (f *Contexts) Remove(name, clusterID string) error {
	return f.change(func(t *contextsText) error {
		i := slices.IndexFunc(t.Contexts, func(o contextText) bool { return o.Name == name && o.ClusterID == clusterID })
		if i < 0 {
			return errUnchanged
		}
		t.delete(i)
		return nil
	})
}

// Update changes the context of that name as the file has it now; change reports
// whether there is anything to write. A context that has gone is let go.
func (f *Contexts) Update(name string, change func(*Context) bool) error {
	return f.change(func(t *contextsText) error {
		i := slices.IndexFunc(t.Contexts, func(o contextText) bool { return o.Name == name })
		if i < 0 {
			return errUnchanged
		}
		c, err := t.Contexts[i].parse()
		if err != nil {
			return err
		}
		if !change(c) {
			return errUnchanged
		}
		t.Contexts[i], err = c.text()
		return err
	})
}

func (t *contextsText) nameFor(clusterID string) string {
	free := true
	for _, c := range t.Contexts {
		if c.ClusterID == clusterID {
			return c.Name
		}
		free = free && c.Name != "default"
	}
	if free {
		return "default"
	}
	return "cluster-" + clusterID
}

var errUnchanged = errors.New("unchanged")

func (f *Contexts) change(change func(*contextsText) error) error {
	fail := func(err error) error { return fmt.Errorf("write contexts file %q: %w", f.path, err) }
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return fail(err)
	}
	unlock, err := lock(f.path + ".lock")
	if err != nil {
		return fail(err)
	}
	defer unlock()
	t, err := f.read()
	if err != nil && !errors.Is(err, ErrNoContext) {
		return err
	}
	switch err := change(&t); {
	case errors.Is(err, errUnchanged):
		return nil
	case errors.Is(err, ErrNoContext):
		return err // which names the file
	case err != nil:
		return fail(err)
	}
	t.Format = contextsFormat
	data, err := yaml.Marshal(t)
	if err != nil {
		return fail(err)
	}
	return identity.ReplaceFile(f.path, data)
}

func (f *Contexts) read() (contextsText, error) {
	var t contextsText
	data, err := identity.ReadSecretFile(f.path, maxContextsBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return t, fmt.Errorf("%w: there is no file %q", ErrNoContext, f.path)
	}
	if err != nil {
		return t, fmt.Errorf("%w: %w", ErrContexts, err)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return t, fmt.Errorf("%w: file %q is empty", ErrNoContext, f.path)
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&t); err != nil {
		return t, fmt.Errorf("%w %q: it has not the form of one: %s", ErrContexts, f.path, yamlWords(err))
	}
	if t.Format != contextsFormat {
		return t, fmt.Errorf("%w %q: format %d is not %d; it was written by another version", ErrContexts, f.path, t.Format, contextsFormat)
	}
	return t, nil
}

// goTypes are what package yaml says of types that whoever reads it does not know.
var goTypes = regexp.MustCompile(` (in type|into) [][\w.*]+`)

// yamlWords says what package yaml says, on one line.
func yamlWords(err error) string {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if wrong, ok := errors.AsType[*yaml.TypeError](err); ok {
		text = strings.Join(wrong.Errors, "; ")
	}
	return goTypes.ReplaceAllString(text, "")
}

// lock takes the lock file, which stays: removing it would let two writers hold
// locks on two files of one name. Writers hold it for milliseconds.
func lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(file.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("lock %q: %w", path, err)
	}
	return func() { _ = file.Close() }, nil
}
