package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/memberlist"
)

// stranger is a plain memberlist that holds the key.
func (c *cluster) stranger(name string, meta []byte) *memberlist.Memberlist {
	c.t.Helper()
	conf := memberlist.DefaultLANConfig()
	conf.Name = name
	conf.Label = "cluster-a"
	conf.SecretKey = key1
	conf.EnableCompression = false
	conf.Transport = c.net.NewTransport("10.6.6.6:7461")
	conf.Logger = log.New(io.Discard, "", 0)
	conf.Delegate = newDelegate(meta, time.Minute)
	m, err := memberlist.Create(conf)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = m.Shutdown(); time.Sleep(10 * time.Second) })
	return m
}

func TestHostileMetadataHarmsNobody(t *testing.T) {
	for name, meta := range map[string][]byte{
		"none": nil, "garbage": bytes.Repeat([]byte{0xff}, 512), "an escape": []byte("\x01\x01\x04\x1b[2J"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 30)
				nodes := c.startN(3)
				if _, err := c.stranger("stranger", meta).Join([]string{nodeAddr(1)}); err != nil {
					t.Fatal(err)
				}
				c.within(10*time.Second, "all see it", func() bool { return allSee(nodes, StateAlive, "stranger") })
				if m := nodes[2].member("stranger"); m.Meta != (Meta{}) {
					t.Errorf("metadata = %+v, want none", m.Meta)
				}
				if !strings.Contains(nodes[2].log.String(), "not readable") {
					t.Error("nobody said so")
				}
			})
		})
	}
}

func TestNameThatIsNoNodeIDIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 31)
		nodes := c.startN(3)
		_, _ = c.stranger("bad\x1b[2J name", nil).Join([]string{nodeAddr(1)})
		time.Sleep(time.Minute)
		for _, n := range nodes {
			if got := len(n.Members()); got != 3 {
				t.Errorf("%d members, want 3", got)
			}
			if strings.Contains(n.log.String(), "\x1b") {
				t.Error("the log has an escape")
			}
		}
		if nodes[0].Stats().MembersRefused == 0 {
			t.Error("not counted")
		}
	})
}

func TestMembersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDelegate(nil, time.Minute)
		notice := func(i int) *memberlist.Node {
			return &memberlist.Node{Name: nodeID(i), Addr: []byte{10, 0, 0, 1}, PMin: 1, PMax: 5, PCur: 2}
		}
		for i := range maxMembers {
			if err := d.NotifyAlive(notice(i)); err != nil {
				t.Fatal(err)
			}
			d.NotifyJoin(notice(i))
		}
		if err := d.NotifyAlive(notice(maxMembers)); err == nil {
			t.Error("one too many was let in")
		}
		if err := d.NotifyAlive(notice(0)); err != nil {
			t.Errorf("a known member was refused: %v", err)
		}
		d.NotifyLeave(notice(7))
		if err := d.NotifyAlive(notice(maxMembers)); err == nil {
			t.Error("memberlist still knows the dead one, and yet another was let in")
		}
		time.Sleep(time.Minute + time.Second)
		if err := d.NotifyAlive(notice(maxMembers)); err != nil {
			t.Errorf("refused although one is forgotten: %v", err)
		}
		for what, n := range map[string]*memberlist.Node{
			"oversize metadata": {Name: "a", Addr: []byte{1, 2, 3, 4}, Meta: make([]byte, 513), PMin: 1, PMax: 5, PCur: 2},
			"odd address":       {Name: "a", Addr: []byte{1, 2, 3}, PMin: 1, PMax: 5, PCur: 2},
			"odd version":       {Name: "a", Addr: []byte{1, 2, 3, 4}, PMin: 1, PMax: 5, PCur: 5},
			"odd delegate":      {Name: "a", Addr: []byte{1, 2, 3, 4}, PMin: 1, PMax: 5, PCur: 2, DMin: 9},
			"no name":           {Addr: []byte{1, 2, 3, 4}, PMin: 1, PMax: 5, PCur: 2},
		} {
			if d.NotifyAlive(n) == nil {
				t.Errorf("%s was let in", what)
			}
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	good := Options{NodeID: "n1", Label: "c", Keys: [][]byte{key1}, BindAddr: "127.0.0.1:0"}
	for name, c := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"no key":            {func(o *Options) { o.Keys = nil }, "no key: gossip is encrypted from the first packet"},
		"a short key":       {func(o *Options) { o.Keys = [][]byte{key1[:16]} }, "key 0 has 16 bytes, want 32"},
		"no label":          {func(o *Options) { o.Label = "" }, "want the cluster's id"},
		"no id":             {func(o *Options) { o.NodeID = "" }, `node id ""`},
		"an id with spaces": {func(o *Options) { o.NodeID = "a b" }, `node id "a b"`},
		"bad metadata":      {func(o *Options) { o.Meta.Name = "\x1b" }, "cannot be printed"},
		"bad timing":        {func(o *Options) { o.Timing.ProbeInterval = time.Millisecond }, "probe interval: 1ms is not within 10ms to 1m0s"},
		"timeout too long":  {func(o *Options) { o.Timing.ProbeTimeout = time.Second }, "probe timeout: 1s is not below the probe interval 500ms"},
		"a bad port":        {func(o *Options) { o.BindAddr = "127.0.0.1:99999" }, `port "99999" is not within 0 to 65535`},
		"a host to bind":    {func(o *Options) { o.BindAddr = "example:0" }, "is not an IP address"},
		"advertise all":     {func(o *Options) { o.AdvertiseAddr = "0.0.0.0" }, "peers cannot reach that"},
		"advertise nothing": {func(o *Options) { o.BindAddr = "[::]:0" }, "say which address to advertise"},
	} {
		t.Run(name, func(t *testing.T) {
			o := good
			c.change(&o)
			p, err := Open(o)
			if err == nil {
				_ = p.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Open() = %v, want an error with %q", err, c.want)
			}
		})
	}
	for _, name := range []string{"lan", "lan-fast", "wan"} {
		timing, err := Profile(name)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := timing.withDefaults(); err != nil || again != timing {
			t.Errorf("profile %s = %+v, %v", name, again, err)
		}
	}
	if _, err := Profile("fast"); err == nil {
		t.Error("Profile(fast) = nil error")
	}
}

func TestKeyringOrderAndBounds(t *testing.T) {
	k, err := newKeyring([][]byte{key1, key2, key3})
	if err != nil {
		t.Fatal(err)
	}
	check := func(want ...[]byte) {
		t.Helper()
		var w []string
		for _, key := range want {
			w = append(w, KeyID(key))
		}
		if diff := cmp.Diff(w, k.ids()); diff != "" {
			t.Fatalf("keys (-want +got):\n%s", diff)
		}
	}
	check(key1, key2, key3)
	if err := errors.Join(k.remove(key2), k.remove(key2), k.install(key2), k.install(key2)); err != nil {
		t.Fatal(err)
	}
	check(key1, key3, key2)
	if err := k.use(key2); err != nil {
		t.Fatal(err)
	}
	check(key2, key1, key3)
	if err := k.use(bytes.Repeat([]byte{9}, KeyBytes)); err == nil || !strings.Contains(err.Error(), "install it on all nodes first") {
		t.Errorf("use of an unknown key = %v", err)
	}
	for i := range maxKeys - 3 {
		if err := k.install(bytes.Repeat([]byte{byte(10 + i)}, KeyBytes)); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.install(bytes.Repeat([]byte{99}, KeyBytes)); err == nil {
		t.Error("one key too many was installed")
	}
	if err := k.install(key1[:5]); err == nil {
		t.Error("a short key was installed")
	}
}

// Readers of the ring, as memberlist's decrypting goroutines are, race with
// nothing when keys come and go; the race detector judges.
func TestKeyringChangesWhileItIsRead(t *testing.T) {
	k, err := newKeyring([][]byte{key1, key2, key3})
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, key := range k.ring.GetKeys() {
					if len(key) != KeyBytes || key[0] != key[KeyBytes-1] {
						t.Error("a torn key")
						return
					}
				}
			}
		})
	}
	for range 500 {
		if err := errors.Join(k.remove(key2), k.install(key2), k.remove(key3), k.install(key3)); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
}

func TestLogBridge(t *testing.T) {
	for line, want := range map[string]string{
		"[ERR] memberlist: it broke\n":                             "[WARN]  it broke",
		"[ERROR] memberlist: it broke":                             "[WARN]  it broke",
		"[WARN] memberlist: careful":                               "[WARN]  careful",
		"[INFO] memberlist: Suspect n2 has failed":                 "[INFO]  Suspect n2 has failed",
		"[DEBUG] memberlist: detail":                               "[DEBUG] detail",
		"[ERR] Failed to shutdown transport: x":                    "[WARN]  Failed to shutdown transport: x",
		"Err: Could not set the deadline: x":                       "[WARN]  Could not set the deadline: x",
		"[fe80::1] said":                                           "[DEBUG] [fe80::1] said",
		"[ERR] memberlist: label \x1b[2J\r\nfake":                  "[WARN]  label .[2J..fake",
		"[DEBUG] memberlist: Stream connection from=own-observer":  "",
		"[ERR] memberlist: failed to receive: x from=own-observer": "[WARN]  failed to receive: x from=own-observer",
	} {
		var out strings.Builder
		b := newLogBridge(hclog.New(&hclog.LoggerOptions{Output: &out, Level: hclog.Debug, DisableTime: true}))
		b.std().Print(line)
		if got := strings.TrimSuffix(out.String(), "\n"); got != want {
			t.Errorf("%q became %q, want %q", line, got, want)
		}
	}
}

func TestLogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		b := newLogBridge(hclog.New(&hclog.LoggerOptions{Output: &out, DisableTime: true}))
		for i := range 3 * logLines {
			b.std().Printf("[ERR] memberlist: line %d", i)
		}
		if got := strings.Count(out.String(), "line"); got != logLines {
			t.Errorf("%d lines, want %d", got, logLines)
		}
		time.Sleep(logWindow)
		b.std().Print("[ERR] memberlist: later")
		if !strings.Contains(out.String(), fmt.Sprintf("suppressed=%d", 2*logLines)) || !strings.Contains(out.String(), "later") {
			t.Errorf("the end of the log is %q", out.String()[max(0, out.Len()-200):])
		}
		if got := b.suppressed.Load(); got != 2*logLines {
			t.Errorf("suppressed = %d, want %d", got, 2*logLines)
		}
	})
}
