package gossiptest

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	addrA = "10.0.0.1:1"
	addrB = "10.0.0.2:1"
)

func pair(t *testing.T) (*Network, *Transport, *Transport) {
	n := NewNetwork(1)
	a, b := n.NewTransport(addrA), n.NewTransport(addrB)
	t.Cleanup(func() { _ = errors.Join(a.Shutdown(), b.Shutdown()) })
	return n, a, b
}

// arrived sends count packets and says how many arrive in the end.
func arrived(t *testing.T, from, to *Transport, count int) int {
	t.Helper()
	for range count {
		if _, err := from.WriteTo([]byte("x"), to.addr.String()); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(time.Second)
	n := 0
	for {
		select {
		case p := <-to.PacketCh():
			if string(p.Buf) != "x" || p.From.String() != from.addr.String() {
				t.Fatalf("packet %q from %v", p.Buf, p.From)
			}
			n++
		default:
			return n
		}
	}
}

func TestPacketsTakeTheLatencyAndBelongToTheNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := pair(t)
		n.SetLatency(7*time.Millisecond, 7*time.Millisecond)
		begin := time.Now()
		buf := []byte("hello")
		if _, err := a.WriteTo(buf, addrB); err != nil {
			t.Fatal(err)
		}
		copy(buf, "later") // the sender may reuse its buffer
		p := <-b.PacketCh()
		if string(p.Buf) != "hello" || time.Since(begin) != 7*time.Millisecond || !p.Timestamp.Equal(time.Now()) {
			t.Errorf("%q after %v, stamped %v", p.Buf, time.Since(begin), p.Timestamp)
		}
	})
}

func TestPacketsOvertakeEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := pair(t)
		for i := range byte(100) {
			if _, err := a.WriteTo([]byte{i}, addrB); err != nil {
				t.Fatal(err)
			}
		}
		if n.Overtaken() != 0 {
			t.Errorf("%d packets overtake others that take as long", n.Overtaken())
		}
		time.Sleep(time.Second)
		n.SetLatency(0, 20*time.Millisecond)
		for i := range byte(100) {
			if _, err := a.WriteTo([]byte{i}, addrB); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		var newest byte
		late := uint64(0)
		for range 200 {
			if p := <-b.PacketCh(); len(b.packets) < 100 {
				if p.Buf[0] < newest {
					late++
				}
				newest = max(newest, p.Buf[0])
			}
		}
		if n.Overtaken() < 50 || late < 50 {
			t.Errorf("%d packets have overtaken others, and %d came late of 100 on their way at once", n.Overtaken(), late)
		}
	})
}

func TestLossIsAboutAsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := pair(t)
		n.SetLoss(0.3)
		got := arrived(t, a, b, 1000)
		if got < 640 || got > 760 {
			t.Errorf("%d of 1000 arrived, want about 700", got)
		}
		delivered, dropped := n.Counts()
		if delivered != uint64(got) || dropped != uint64(1000-got) {
			t.Errorf("Counts() = %d, %d, want %d, %d", delivered, dropped, got, 1000-got)
		}
		if lost := n.Lost(); lost != dropped {
			t.Errorf("Lost() = %d, want %d", lost, dropped)
		}
	})
}

func TestCutIsOneWayForPacketsAndBothForStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := pair(t)
		n.Cut(addrA, addrB)
		if got := arrived(t, a, b, 10); got != 0 {
			t.Errorf("%d packets crossed the cut", got)
		}
		if held, back := n.Held(addrA, addrB), n.Held(addrB, addrA); held != 10 || back != 0 {
			t.Errorf("the cut has stopped %d packets and %d the other way, want 10 and none", held, back)
		}
		if got := arrived(t, b, a, 10); got != 10 {
			t.Errorf("%d of 10 packets came the other way", got)
		}
		for _, d := range []struct {
			from *Transport
			to   string
		}{{a, addrB}, {b, addrA}} {
			begin := time.Now()
			_, err := d.from.DialTimeout(d.to, 3*time.Second)
			var ne net.Error
			if !errors.As(err, &ne) || !ne.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != 3*time.Second {
				t.Errorf("dial to %s = %v after %v, want a timeout after 3s", d.to, err, time.Since(begin))
			}
		}
		n.Heal()
		if got := arrived(t, a, b, 10); got != 10 {
			t.Errorf("%d of 10 packets arrived after the healing", got)
		}
	})
}

func TestNobodyBlocksOnTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := pair(t)
		_ = b.Shutdown()
		begin := time.Now()
		for range 5000 { // more than any queue holds
			if _, err := a.WriteTo([]byte("x"), addrB); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := a.DialTimeout(addrB, time.Minute); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial = %v, want refused", err)
		}
		if time.Since(begin) != 0 {
			t.Errorf("took %v", time.Since(begin))
		}
		b = n.NewTransport(addrB) // the address is free again
		defer b.Shutdown()
		time.Sleep(time.Second)
		for range 5000 { // nobody reads: its queue fills, and the sender does not wait
			if _, err := a.WriteTo([]byte("x"), addrB); err != nil {
				t.Fatal(err)
			}
		}
		for {
			if _, err := a.DialTimeout(addrB, time.Minute); err != nil {
				break // its backlog is full
			}
		}
		_ = a.Shutdown()
		if _, err := a.WriteTo([]byte("x"), addrB); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after Shutdown = %v, want closed", err)
		}
	})
}

func TestStreamsCarryUntilTheyAreCut(t *testing.T) {
	for name, end := range map[string]func(*Network, *Transport){
		"by a cut":      func(n *Network, _ *Transport) { n.Cut(addrB, addrA) },
		"by a shutdown": func(_ *Network, b *Transport) { _ = b.Shutdown() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, a, b := pair(t)
				near, err := a.DialTimeout(addrB, time.Second)
				if err != nil {
					t.Fatal(err)
				}
				defer near.Close()
				far := <-b.StreamCh()
				defer far.Close()
				if far.RemoteAddr().String() != addrA || near.RemoteAddr().String() != addrB {
					t.Errorf("remote addresses %v and %v", far.RemoteAddr(), near.RemoteAddr())
				}
				go func() { _, _ = far.Write([]byte("hello")) }()
				got := make([]byte, 5)
				if _, err := io.ReadFull(near, got); err != nil || string(got) != "hello" {
					t.Fatalf("read %q, %v", got, err)
				}
				ended := make(chan error)
				go func() {
					_, err := near.Read(got)
					ended <- err
				}()
				synctest.Wait()
				end(n, b)
				if err := <-ended; err == nil {
					t.Error("the stream outlived its link")
				}
				if len(n.streams) != 0 {
					t.Errorf("%d streams are still known", len(n.streams))
				}
			})
		})
	}
}

func TestShutdownEndsADial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, _ := pair(t)
		n.Partition([]string{addrA}, []string{addrB})
		time.AfterFunc(time.Second, func() { _ = a.Shutdown() })
		begin := time.Now()
		if _, err := a.DialTimeout(addrB, time.Hour); !errors.Is(err, net.ErrClosed) || time.Since(begin) != time.Second {
			t.Errorf("dial = %v after %v, want closed after 1s", err, time.Since(begin))
		}
	})
}

func TestAddressInUsePanics(t *testing.T) {
	n, a, _ := pair(t)
	defer func() {
		if recover() == nil {
			t.Error("two hosts share an address")
		}
	}()
	n.NewTransport(a.addr.String())
}
