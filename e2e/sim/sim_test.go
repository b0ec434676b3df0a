package sim

import (
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const defaultLives = 20

// TestLives runs lives of whole clusters: see the package comment. AGENTPLANE_SIM_LIVES
// says how many, AGENTPLANE_SIM_SEED with which seed to begin, AGENTPLANE_SIM_LOG=info
// prints what nodes and agents log.
func TestLives(t *testing.T) {
	lives, first := envNumber(t, "AGENTPLANE_SIM_LIVES", defaultLives), envNumber(t, "AGENTPLANE_SIM_SEED", 1)
	if testing.Short() {
		lives = min(lives, 3)
	}
	for seed := first; seed < first+lives; seed++ {
		var out *Outcome
		began := time.Now()
		dir := home(t)
		synctest.Test(t, func(*testing.T) {
			time.Sleep(time.Duration(seed-first) * time.Hour)
			out = Live(seed, dir, nil)
		})
		t.Logf("seed %d: red %d, void %q, %d writes, %d reads, %d starts, %v virtual in %v, healed in %v, %v %v", seed, len(out.Red), out.Void, out.Writes, out.Reads, out.Starts, out.Virtual, time.Since(began), out.Healed, out.Effects, out.Ends)
		if len(out.Red) > 0 {
			t.Errorf("seed %d:\n%s\nfaults:\n%s\ntrace:\n%s", seed, out.Red, shown(out.Faults), out.Trace)
			t.Fatalf("run again with AGENTPLANE_SIM_SEED=%d AGENTPLANE_SIM_LIVES=1", seed)
		}
	}
}

// home is a directory in memory where there is one: the small files are real, and
// nothing is learned from waiting for a disk.
func home(t *testing.T) string {
	t.Helper()
	base := ""
	if s, err := os.Stat("/dev/shm"); err == nil && s.IsDir() {
		base = "/dev/shm"
	}
	dir, err := os.MkdirTemp(base, "agentplane-sim-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func envNumber(t *testing.T, name string, def uint64) uint64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return def
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}
