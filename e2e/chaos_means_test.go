package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// What a fault may need of the machine.
const (
	needNamespaces = "namespaces" // of network, mounts and processes, which takes root
	needFilter     = "nft"
	needShaper     = "tc"
	needTracer     = "strace"
	needDisk       = "loop disk"
	needFreezer    = "fsfreeze"
	needQuota      = "cgroup cpu"
	needThrottle   = "cgroup blkio"
	needClock      = "clock"
	needOld        = "older version"
	needProxy      = "proxy" // is always there
	needFuse       = "fuse"
)

// missingMeans says of each that is not there why.
func missingMeans() map[string]string {
	missing := make(map[string]string)
	lacks := func(need string, programs ...string) {
		if os.Geteuid() != 0 {
			missing[need] = "it takes root"
			return
		}
		for _, p := range programs {
			if _, err := exec.LookPath(p); err != nil {
				missing[need] = fmt.Sprintf("there is no program %s", p)
			}
		}
	}
	lacks(needNamespaces, "unshare", "nsenter", "ip", "sh")
	if missing[needNamespaces] == "" && !insideNamespaces() {
		if out, err := command("unshare", append(unshareFlags, "true")...); err != nil {
			missing[needNamespaces] = fmt.Sprintf("unshare: %v: %s", err, out)
		}
	}
	lacks(needFilter, "nft")
	lacks(needShaper, "tc")
	lacks(needDisk, "mkfs.ext4", "mount", "losetup")
	lacks(needFreezer, "fsfreeze")
	for need, file := range map[string]string{
		needQuota:    filepath.Join(quotaRoot, "cpu.cfs_quota_us"),
		needThrottle: filepath.Join(throttleRoot, "blkio.throttle.write_iops_device"),
	} {
		lacks(need)
		if _, err := os.Stat(file); err != nil && missing[need] == "" {
			missing[need] = "the controller of cgroup v1 is not mounted: there is no " + file
		}
	}
	lacks(needFuse)
	if _, err := os.Stat("/dev/fuse"); err != nil && missing[needFuse] == "" {
		missing[needFuse] = fmt.Sprintf("there are no file systems in user space: %v", err)
	}
	if _, err := exec.LookPath("strace"); err != nil {
		missing[needTracer] = "there is no program strace"
	}
	for _, need := range []string{needFilter, needShaper, needDisk, needFreezer} {
		if why := missing[needNamespaces]; why != "" && missing[need] == "" {
			missing[need] = "there are no namespaces to do it in: " + why
		}
	}
	return missing
}

// command runs a program to its end and answers what it printed.
func command(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

// unshareFlags make namespaces that end with the process in them: its interfaces, mounts
// and whatever it started go with it, however it ends.
var unshareFlags = []string{"--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"}

const (
	// insideVar says that this process has namespaces of its own; it holds the id of the
	// process that made them.
	insideVar = "AGENTPLANE_CHAOS_INSIDE"
	// programsVar names the directory of the programs, which are built outside: there
	// is no network inside. Who sets it keeps them for the next series of the same commit.
	programsVar = "AGENTPLANE_CHAOS_PROGRAMS"
)

func insideNamespaces() bool { return os.Getenv(insideVar) != "" }

// enterNamespaces runs the tests of a pattern again in namespaces of their own, with more in
// their environment, and fails when they do.
func enterNamespaces(t *testing.T, pattern string, env ...string) {
	t.Helper()
	// The kernel ends the child when the thread that started it ends: it must not
	// before this process does.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The shell takes in what is orphaned, as init would.
	args := append(append([]string(nil), unshareFlags...), "sh", "-c", `mount -t tmpfs tmpfs /run && "$@"; exit $?`, "sh",
		self, "-test.run="+pattern, "-test.timeout=0", "-test.v")
	cmd := exec.Command("unshare", args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(append(os.Environ(), insideVar+"="+groupOwner()), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		t.Errorf("the runs inside namespaces: %v", err)
	}
	removeGroups()
}

// programs are what the processes of a run are started from.
type programs struct {
	now lab.Binaries
	old lab.Binaries // of oldCommit; empty when it cannot be built
	// With a wall clock that can be moved: agentplane and agentd; may be empty.
	clock, agentClock string
}

// oldCommit is the version that mixed runs mix in: the oldest one that gives the same
// state for the same log, which older ones do not, as nothing was released yet, and that
// has the mended pipeline, without which a follower may starve.
const oldCommit = "d471fc1"

// missing says of what the programs are needed for why it cannot be had. Those that somebody
// keeps were built for the faults of the first series.
func (b programs) missing() map[string]string {
	missing := make(map[string]string)
	if b.old.Agentplane == "" {
		missing[needOld] = fmt.Sprintf("that of commit %s was not built", oldCommit)
	}
	if b.clock == "" {
		missing[needClock] = "the program whose clock can be moved was not built"
	}
	return missing
}

// chaosPrograms builds what a series of runs needs, once.
func chaosPrograms(t *testing.T) programs {
	t.Helper()
	dir := os.Getenv(programsVar)
	if dir == "" {
		dir = t.TempDir()
		t.Setenv(programsVar, dir)
	}
	var b programs
	var there bool
	if b.now, there = lab.Find(filepath.Join(dir, "now")); !there {
		buildPrograms(t, dir)
		b.now, _ = lab.Find(filepath.Join(dir, "now"))
	}
	b.old, _ = lab.Find(filepath.Join(dir, "old"))
	if node, agent := filepath.Join(dir, "clock", "agentplane"), filepath.Join(dir, "clock", "agentd"); canRun(node) && canRun(agent) {
		b.clock, b.agentClock = node, agent
	}
	built.once.Do(func() { built.bin = b.now })
	return b
}

func canRun(program string) bool {
	info, err := os.Stat(program)
	return err == nil && info.Mode()&0o111 != 0
}

func buildPrograms(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []string{"now", "old", "clock", "source"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"-trimpath"}
	if tags := os.Getenv("AGENTPLANE_E2E_TAGS"); tags != "" {
		args = append(args, "-tags", tags)
	}
	if _, err := lab.Build(t.Context(), ".", filepath.Join(dir, "now"), args...); err != nil {
		t.Fatal(err)
	}
	if os.Getenv(chaosOldVar) != "0" {
		source := filepath.Join(dir, "source")
		_, err := command("sh", "-c", fmt.Sprintf("git -C .. archive %s | tar -x -C %q", oldCommit, source))
		if err == nil {
			_, err = lab.Build(t.Context(), source, filepath.Join(dir, "old"), "-trimpath")
		}
		if err != nil {
			t.Logf("SKIPPED: mixed versions: %v", err)
		}
	}
	if asked := os.Getenv(chaosFaultVar); asked == "" || strings.Contains(asked, clockJump) {
		buildMovedClock(t, filepath.Join(dir, "clock"))
	}
}

// movedClockVar names the file whose first byte moves the wall clock of a program that
// buildMovedClock built, in minutes, while it runs.
const movedClockVar = "E2E_WALL_FILE"

const movedClock = `
var wallFile = func() []byte {
	name, there := syscall.Getenv("` + movedClockVar + `")
	if !there {
		return nil
	}
	fd, err := syscall.Open(name, syscall.O_RDONLY, 0)
	if err != nil {
		panic("open the file of the wall clock")
	}
	page, err := syscall.Mmap(fd, 0, 1, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic("map the file of the wall clock")
	}
	return page
}()

func wallOffset() int64 {
	if len(wallFile) == 0 {
		return 0
	}
	return int64(int8(wallFile[0])) * 60
}
`

// buildMovedClock builds agentplane and agentd with a time.Now that can be moved while they run;
// the monotonic clock is left alone. Where this Go reads otherwise it builds nothing.
func buildMovedClock(t *testing.T, dir string) {
	t.Helper()
	root, err := command("go", "env", "GOROOT")
	if err != nil {
		t.Fatal(err)
	}
	original := filepath.Join(strings.TrimSpace(root), "src", "time", "time.go")
	overlay, err := overlayOf(original, "wallOffset()", movedClock, dir)
	if err != nil {
		t.Logf("SKIPPED: fault %s: %v", clockJump, err)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-overlay", overlay,
		"-o", dir+"/", "github.com/agentplane/agentplane/cmd/agentplane", "github.com/agentplane/agentplane/cmd/agentd")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build with a wall clock that can be moved: %v: %s", err, out)
	}
}

var errOtherGo = errors.New("time.Now of this Go reads otherwise; the overlay does not fit")

// overlayOf writes, into a directory, a time.go whose Now adds the offset to the wall
// clock's seconds, and with it the code that the offset needs. It answers the overlay file
// for go build.
func overlayOf(original, offset, code, dir string) (string, error) {
	b, err := os.ReadFile(original)
	if err != nil {
		return "", err
	}
	const now = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(b), now) != 1 {
		return "", errOtherGo
	}
	source := strings.Replace(string(b), now, now+"\tsec += "+offset+"\n", 1) + code
	if !strings.Contains(source, "\t\"syscall\"\n") {
		source = strings.Replace(source, "import (\n", "import (\n\t\"syscall\"\n", 1)
	}
	changed, overlay := filepath.Join(dir, "time.go"), filepath.Join(dir, "overlay.json")
	list, err := json.Marshal(map[string]map[string]string{"Replace": {original: changed}})
	if err != nil {
		return "", err
	}
	return overlay, errors.Join(os.WriteFile(changed, []byte(source), 0o600), os.WriteFile(overlay, list, 0o600))
}
