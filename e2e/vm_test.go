package e2e

import (
	"debug/elf"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

const (
	// guestVar asks for TestGuest (make vm).
	guestVar = "AGENTPLANE_VM"
	// guestRootVar names a directory into which a kernel's package was unpacked; / without.
	guestRootVar = "AGENTPLANE_VM_ROOT"
	// guestAccelVar is kvm or tcg; what works of them without.
	guestAccelVar = "AGENTPLANE_VM_ACCEL"
	// guestCutsVar is how often the power is cut.
	guestCutsVar = "AGENTPLANE_VM_CUTS"
	// guestProgramsVar names, inside the namespaces, the directory of the programs.
	guestProgramsVar = "AGENTPLANE_VM_PROGRAMS"
	guestSeedVar     = "AGENTPLANE_E2E_SEED"
)

// TestGuest has agentd on a host of its own: a small virtual machine with a real kernel,
// that is started anew, loses its power, cuts itself off with its own firewall and freezes.
// The nodes run beside it, in the same namespaces. A part is chosen as of any test: make vm
// T=power.
func TestGuest(t *testing.T) {
	if os.Getenv(guestVar) == "" {
		t.Skip("SKIPPED: it takes minutes and a virtual machine; asked for by make vm")
	}
	k := newGuestKit(t)
	if !insideNamespaces() {
		dir := filepath.Dir(binaries(t).Agentd)
		pattern := "^TestGuest$"
		if asked := flag.Lookup("test.run").Value.String(); strings.HasPrefix(asked, pattern) {
			pattern = asked
		}
		enterNamespaces(t, pattern, guestProgramsVar+"="+dir, guestAccelVar+"="+accelerator(t, k), fmt.Sprintf("%s=%d", guestSeedVar, chaosSeed(t)))
		return
	}
	k.accel = os.Getenv(guestAccelVar)
	built.once.Do(func() { built.bin, _ = lab.Find(os.Getenv(guestProgramsVar)) })
	if err := guestNetwork(); err != nil {
		t.Fatal(err)
	}
	t.Run("reboot", func(t *testing.T) { guestReboots(t, k) })
	t.Run("power", func(t *testing.T) { guestLosesPower(t, k) })
	t.Run("firewall", func(t *testing.T) { guestCutsItselfOff(t, k) })
	t.Run("freeze", func(t *testing.T) { guestFreezes(t, k) })
	t.Run("image", func(t *testing.T) { guestIsPutBack(t, k) })
}

// guestKit is what guests are made of.
type guestKit struct {
	kernel  string            // the file that is started
	modules []string          // files, each after those it needs
	tools   map[string]string // programs of this machine, by name
	accel   string            // kvm or tcg
	self    string            // this test, the program that agents run
}

// guestModules are what a guest needs of the kernel where it is not built in.
var guestModules = []string{"virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "nf_tables", "nft_ct"}

// newGuestKit looks for all that is needed, and skips the test when something is not there.
func newGuestKit(t *testing.T) *guestKit {
	t.Helper()
	var missing []string
	if os.Geteuid() != 0 {
		missing = append(missing, "root, for namespaces and a tap device")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		missing = append(missing, "/dev/net/tun (modprobe tun)")
	}
	k := &guestKit{tools: make(map[string]string)}
	for program, from := range map[string]string{
		"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static", "nft": "nftables", "mkfs.ext4": "e2fsprogs",
		"ip": "iproute2", "unshare": "util-linux", "ldd": "libc-bin",
	} {
		path, err := exec.LookPath(program)
		if err != nil {
			missing = append(missing, fmt.Sprintf("the program %s (package %s)", program, from))
		}
		k.tools[program] = path
	}
	if path := k.tools["busybox"]; path != "" && !static(path) {
		missing = append(missing, "a static busybox (package busybox-static)")
	}
	var err error
	if k.self, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	if !static(k.self) {
		missing = append(missing, "this test as a static program (CGO_ENABLED=0)")
	}
	root := os.Getenv(guestRootVar)
	kernels, err := filepath.Glob(filepath.Join(root, "/boot/vmlinuz-*"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(kernels)
	for _, kernel := range kernels { // the last one whose modules are there
		release := strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-")
		modules, err := modulesFor(filepath.Join(root, "/lib/modules", release), guestModules)
		if err != nil {
			t.Logf("%s will not do: %v", kernel, err)
			continue
		}
		k.kernel, k.modules = kernel, modules
	}
	if k.kernel == "" {
		missing = append(missing, "a kernel with its modules (package linux-image-cloud-amd64, installed, or unpacked by dpkg -x into the directory that "+guestRootVar+" names)")
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		t.Skipf("SKIPPED: for a virtual machine is missing: %s", strings.Join(missing, "; "))
	}
	return k
}

// static says that a program needs no libraries.
func static(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}

// accelerator is the one that was asked for, or kvm where a guest starts with it within
// seconds; there are machines with /dev/kvm on which none does.
func accelerator(t *testing.T, k *guestKit) string {
	t.Helper()
	if asked := os.Getenv(guestAccelVar); asked != "" {
		return asked
	}
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return "tcg"
	}
	initrd := filepath.Join(t.TempDir(), "initrd")
	if err := writeInitrd(initrd, k, "echo it starts\npoweroff -f\n"); err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 10*time.Second)
	out, err := exec.CommandContext(ctx, k.tools["qemu-system-x86_64"], guestArgs(k, "kvm", initrd, "-serial", "stdio")...).CombinedOutput()
	if err == nil && strings.Contains(string(out), "it starts") {
		return "kvm"
	}
	t.Logf("the machine is emulated, which is slower: with /dev/kvm none starts within ten seconds (%v)", err)
	return "tcg"
}

// The network of nodes and guest. Nodes are at one address with several ports; what comes
// from the guest comes over its own Ethernet, so that packets vanish when it is gone.
const (
	guestTap     = "tap-guest"
	nodesAddress = "192.0.2.1"
	guestAddress = "192.0.2.2"
)

func guestNetwork() error {
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"tuntap", "add", guestTap, "mode", "tap"},
		{"addr", "add", nodesAddress + "/24", "dev", guestTap},
		{"link", "set", guestTap, "up"},
	} {
		if err := ip(args...); err != nil {
			return err
		}
	}
	return nil
}
