package collect

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHostKnowsItself(t *testing.T) {
	facts := Host(t.Context())
	if facts["os"] != runtime.GOOS || facts["arch"] != runtime.GOARCH {
		t.Fatalf("os %q arch %q, want %q %q", facts["os"], facts["arch"], runtime.GOOS, runtime.GOARCH)
	}
	for _, name := range []string{"hostname", "kernel", "cpu_count", "mem_total_bytes", "boot_time"} {
		if facts[name] == "" {
			t.Errorf("fact %q is missing: %v", name, facts)
		}
	}
	start := time.Now()
	Host(t.Context())
	if d := time.Since(start); d > time.Second {
		t.Errorf("collecting took %v: somebody walks over processes", d)
	}
}

func TestFactsAreSentOnlyWhenTheyChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kernel atomic.Value
		kernel.Store("6.1")
		c := New(Options{
			Interval: func() time.Duration { return time.Minute },
			Own:      map[string]string{"agent_version": "v1"},
			Read: func(context.Context) map[string]string {
				return map[string]string{"kernel": kernel.Load().(string), "agent_version": "read"}
			},
		})
		if !c.Collect(t.Context()) {
			t.Fatal("the first facts were no news")
		}
		facts, hash, changed := c.Facts()
		if len(facts) != 2 || facts[0].GetValue() != "v1" || facts[1].GetValue() != "6.1" {
			t.Fatalf("facts are %v", facts)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = c.Run(ctx) }()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		select {
		case <-changed:
			t.Fatal("unchanged facts were called changed")
		default:
		}
		kernel.Store("6.2")
		time.Sleep(time.Minute)
		synctest.Wait()
		<-changed
		if _, again, _ := c.Facts(); cmp.Equal(hash, again) {
			t.Fatal("other facts have the same hash")
		}
	})
}

func TestBootTimeThatJittersStays(t *testing.T) {
	const old = "2026-01-01T00:00:00Z"
	for now, want := range map[string]string{
		"2026-01-01T00:00:01Z": old,
		"2025-12-31T23:59:00Z": old,
		"2026-01-01T00:10:00Z": "2026-01-01T00:10:00Z",
		"":                     "",
	} {
		if got := steady(old, now); got != want {
			t.Errorf("steady(%q, %q) = %q, want %q", old, now, got, want)
		}
	}
}

func TestFactsStayWithinTheirBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.MapOfN(rapid.String(), rapid.String(), 0, 300).Draw(t, "raw")
		for i := range rapid.IntRange(0, 300).Draw(t, "more") {
			raw[fmt.Sprint("n", i)] = strings.Repeat("é", i)
		}
		facts := bound(raw)
		if len(facts) > MaxFacts {
			t.Fatalf("%d facts", len(facts))
		}
		for i, f := range facts {
			if len(f.GetValue()) > MaxValueBytes || !utf8.ValidString(f.GetValue()) || f.GetValue() == "" {
				t.Fatalf("value %q", f.GetValue())
			}
			if i > 0 && facts[i-1].GetName() >= f.GetName() {
				t.Fatalf("%q stands before %q", facts[i-1].GetName(), f.GetName())
			}
		}
	})
}

func TestLimitsOfTheControlGroup(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  map[string]string
	}{
		"v2 with limits":    {map[string]string{"memory.max": "1048576\n", "cpu.max": "150000 100000\n"}, map[string]string{"mem_limit_bytes": "1048576", "cpu_limit": "1.50"}},
		"v2 without limits": {map[string]string{"memory.max": "max\n", "cpu.max": "max 100000\n"}, map[string]string{}},
		"v1 with limits": {
			map[string]string{"memory/memory.limit_in_bytes": "4096\n", "cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"},
			map[string]string{"mem_limit_bytes": "4096", "cpu_limit": "0.50"},
		},
		"v1 without limits": {map[string]string{"memory/memory.limit_in_bytes": "9223372036854771712\n", "cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, map[string]string{}},
		"none":              {nil, map[string]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for f, text := range c.files {
				p := filepath.Join(root, f)
				if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got := map[string]string{}
			limits(root, got)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestCollectionThatHangsHangsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var begun atomic.Int32
		c := New(Options{Interval: func() time.Duration { return time.Minute }, Read: func(context.Context) map[string]string {
			begun.Add(1)
			<-release
			return map[string]string{"os": "linux"}
		}})
		for range 3 {
			if c.Collect(t.Context()) {
				t.Fatal("facts came from a collection that hangs")
			}
		}
		if n := begun.Load(); n != 1 {
			t.Fatalf("%d collections hang, want 1", n)
		}
		close(release)
		if !c.Collect(t.Context()) {
			t.Fatal("the facts of the collection that came back were not taken")
		}
	})
}
