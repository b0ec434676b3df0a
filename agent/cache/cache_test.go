package cache

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/agentplane/agentplane/proto/blob"
)

func put(t testing.TB, c *Cache, content string) blob.Ref {
	t.Helper()
	r, err := blob.Of(bytes.NewReader([]byte(content)))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Put(r, whole(content)); err != nil {
		t.Fatal(err)
	}
	return r
}

func whole(content string) func() ([]byte, error) {
	rest := []byte(content)
	return func() ([]byte, error) {
		if rest == nil {
			return nil, io.EOF
		}
		b := rest
		rest = nil
		return b, nil
	}
}

func open(t testing.TB, dir string, max int64) *Cache {
	t.Helper()
	c, err := Open(dir, func() int64 { return max })
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// age lets what is there have been used so long ago.
func (c *Cache) age(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.held {
		e.used = e.used.Add(-d)
	}
}

func TestTheLongestUnusedGoesFirst(t *testing.T) {
	c := open(t, t.TempDir(), 25)
	a := put(t, c, "aaaaaaaaaa")
	c.age(time.Hour)
	b := put(t, c, "bbbbbbbbbb")
	c.age(time.Hour)
	if !c.Has(a) || !c.Has(b) {
		t.Fatal("within the bound something is gone")
	}
	c.age(time.Hour)
	c.Has(a) // used
	d := put(t, c, "dddddddddd")
	if !c.Has(a) || c.Has(b) || !c.Has(d) {
		t.Errorf("there are %v %v %v, want the one gone that was used longest ago", c.Has(a), c.Has(b), c.Has(d))
	}
	// An attempt is about to be started with them.
	e := put(t, c, "eeeeeeeeee")
	if !c.Has(a) || !c.Has(d) || !c.Has(e) {
		t.Error("what was used a moment ago is gone")
	}
	c.age(time.Hour)
	put(t, c, "f")
	if c.bytes > 25 {
		t.Errorf("%d bytes are kept, at most 25 are allowed", c.bytes)
	}
}

func TestTheNextLifeHasWhatIsWhole(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, 100)
	good, bad := put(t, c, "good"), put(t, c, "bad")
	if err := os.WriteFile(c.Path(bad), []byte("sad"), 0o600); err != nil {
		t.Fatal(err)
	}
	c = open(t, dir, 100)
	if c.Has(good) || c.Has(bad) {
		t.Error("it is said to be whole, and nobody has looked")
	}
	if !c.Verify(good) || !c.Has(good) {
		t.Error("what is whole is not had")
	}
	if c.Verify(bad) || c.Has(bad) {
		t.Error("what was spoilt is had")
	}
	if _, err := os.Stat(c.Path(bad)); !os.IsNotExist(err) {
		t.Errorf("what was spoilt is still there: %v", err)
	}
	if put(t, c, "bad") != bad || !c.Has(bad) {
		t.Error("it cannot be gotten anew")
	}
}

func TestWhatSomebodyHasRemovedIsNotHad(t *testing.T) {
	c := open(t, t.TempDir(), 100)
	r := put(t, c, "x")
	if err := os.Remove(c.Path(r)); err != nil {
		t.Fatal(err)
	}
	if c.Has(r) {
		t.Error("it is had")
	}
	if c.Verify(r) || c.Put(r, whole("x")) != nil || !c.Has(r) {
		t.Error("it cannot be gotten anew")
	}
	if err := c.Put(blob.Ref{Sum: r.Sum, Size: 1}, whole("y")); !errors.Is(err, blob.ErrMismatch) {
		t.Errorf("another content: %v", err)
	}
}
