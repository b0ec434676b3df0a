package sim

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pair connects two places.
func pair(t *testing.T, n *Network) (a, b *Place, near, far net.Conn) {
	t.Helper()
	a, b = n.Attach("10.0.0.1"), n.Attach("10.0.0.2")
	ln, err := b.Listen("tcp", "10.0.0.2:1")
	if err != nil {
		t.Fatal(err)
	}
	if near, err = a.Dial(t.Context(), "tcp", "10.0.0.2:1"); err != nil {
		t.Fatal(err)
	}
	if far, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b, near, far
}

func read(t *testing.T, c net.Conn, within time.Duration) (string, error) {
	t.Helper()
	b := make([]byte, 100)
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	n, err := c.Read(b)
	return string(b[:n]), err
}

func write(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := c.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
}

func TestConnectionOutlivesACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		_, _, near, far := pair(t, n)
		n.SetLoss(0.5)
		n.Cut("10.0.0.1", "10.0.0.2", true)
		for _, s := range []string{"a", "b", "c"} {
			write(t, near, s)
			write(t, far, s)
		}
		if got, err := read(t, near, time.Minute); got == "" || err != nil {
			t.Errorf("the other way is open, and read gave %q, %v", got, err)
		}
		if got, err := read(t, far, time.Minute); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("through a cut came %q, %v", got, err)
		}
		n.Cut("10.0.0.1", "10.0.0.2", false)
		all := ""
		for len(all) < 3 {
			got, err := read(t, far, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			all += got
		}
		if err := near.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := read(t, far, time.Minute); all != "abc" || err != io.EOF {
			t.Errorf("after the cut came %q, then %v, want abc and the end", all, err)
		}
	})
}

func TestKillResetsConnectionsAndRefusesOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		a, b, near, far := pair(t, n)
		write(t, far, "last words")
		b.Detach()
		if got, err := read(t, near, time.Second); got != "last words" || err != nil {
			t.Errorf("what was sent before the kill came as %q, %v", got, err)
		}
		if _, err := read(t, near, time.Second); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read gave %v, want a reset", err)
		}
		if _, err := a.Dial(t.Context(), "tcp", "10.0.0.2:1"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial gave %v, want that it is refused", err)
		}
	})
}

func TestPausedProcessIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		a, _, near, far := pair(t, n)
		n.Pause("10.0.0.2", true)
		write(t, near, "x")
		write(t, far, "y")
		if _, err := read(t, near, time.Minute); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a paused process spoke: %v", err)
		}
		if c, err := a.Dial(t.Context(), "tcp", "10.0.0.2:1"); err != nil { // its kernel accepts
			t.Error(err)
		} else {
			_ = c.Close()
		}
		n.Heal()
		if got, err := read(t, near, time.Second); got != "y" || err != nil {
			t.Errorf("afterwards came %q, %v", got, err)
		}
		n.Cut("10.0.0.2", "10.0.0.1", true)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := a.Dial(ctx, "tcp", "10.0.0.2:1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial through a cut gave %v", err)
		}
	})
}

func TestResetLosesWhatIsOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		a, _, near, far := pair(t, n)
		write(t, near, "lost")
		if broken := n.Reset("10.0.0.1", "10.0.0.3"); broken != 0 {
			t.Errorf("%d connections to another host were broken", broken)
		}
		if broken := n.Reset("10.0.0.1", "10.0.0.2"); broken != 1 {
			t.Errorf("%d connections were broken, want 1", broken)
		}
		for name, c := range map[string]net.Conn{"near": near, "far": far} {
			if got, err := read(t, c, time.Minute); got != "" || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the %s end read %q, %v", name, got, err)
			}
		}
		n.Refuse("10.0.0.1", "10.0.0.2", true)
		if _, err := a.Dial(t.Context(), "tcp", "10.0.0.2:1"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a refused connection: %v", err)
		}
		n.Refuse("10.0.0.1", "10.0.0.2", false)
		if _, err := a.Dial(t.Context(), "tcp", "10.0.0.2:1"); err != nil {
			t.Error(err)
		}
	})
}
