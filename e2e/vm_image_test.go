package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// archive writes files in cpio's format newc, which the kernel unpacks into its first file
// system.
type archive struct {
	bytes.Buffer
	inode int
}

func (a *archive) add(name string, mode int, content []byte) {
	a.inode++
	fmt.Fprintf(a, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
	a.WriteString(name)
	a.WriteByte(0)
	a.pad()
	a.Write(content)
	a.pad()
}

func (a *archive) pad() {
	for a.Len()%4 != 0 {
		a.WriteByte(0)
	}
}

const (
	cpioDir  = 0o040755
	cpioFile = 0o100755
	cpioLink = 0o120777
)

// guestBegin is what every guest does first. Modules are loaded by hand, in order: nothing of
// a distribution is there.
const guestBegin = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
for m in /modules/*; do insmod $m; done
hostname guest
`

// writeInitrd writes a guest's first file system, whose first process goes on with init.
func writeInitrd(file string, k *guestKit, init string) error {
	var a archive
	for _, dir := range []string{"bin", "dev", "proc", "sys", "run", "tmp", "etc", "data", "modules"} {
		a.add(dir, cpioDir, nil)
	}
	busybox, err := os.ReadFile(k.tools["busybox"])
	if err != nil {
		return err
	}
	a.add("bin/busybox", cpioFile, busybox)
	a.add("init", cpioFile, []byte(guestBegin+init))
	a.add("etc/passwd", cpioFile, []byte("root:x:0:0:root:/:/bin/sh\n"))
	a.add("etc/group", cpioFile, []byte("root:x:0:\n"))
	a.add("bin/nft", cpioFile, []byte("#!/bin/sh\nexec /data/nft/loader --library-path /data/nft /data/nft/nft \"$@\"\n"))
	for i, m := range k.modules {
		b, err := readModule(m)
		if err != nil {
			return err
		}
		a.add(fmt.Sprintf("modules/%02d-%s.ko", i, moduleName(m)), cpioFile, b)
	}
	a.add("TRAILER!!!", 0, nil)
	return os.WriteFile(file, a.Bytes(), 0o600)
}

// moduleName is the kernel's name for the module in a file.
func moduleName(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// readModule reads a module, which some distributions compress.
func readModule(file string) ([]byte, error) {
	for ending, program := range map[string]string{".xz": "xz", ".zst": "zstd", ".gz": "gzip"} {
		if strings.HasSuffix(file, ending) {
			return exec.Command(program, "-dc", file).Output()
		}
	}
	return os.ReadFile(file)
}

var moduleNeeds = regexp.MustCompile(`\x00depends=([^\x00]*)\x00`)

// modulesFor finds the files of modules and of what they need, each after what it needs. A
// module says itself what it needs; the lists that depmod makes are not there when a package
// was only unpacked. One that has no file is taken to be built in, if others have theirs.
func modulesFor(dir string, names []string) ([]string, error) {
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.Contains(d.Name(), ".ko") {
			files[moduleName(path)] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if files["nf_tables"] == "" {
		return nil, errors.New("no module nf_tables")
	}
	var ordered []string
	seen := make(map[string]bool)
	var add func(name string) error
	add = func(name string) error {
		name = strings.ReplaceAll(name, "-", "_")
		if seen[name] || files[name] == "" {
			return nil
		}
		seen[name] = true
		b, err := readModule(files[name])
		if err != nil {
			return fmt.Errorf("module %s: %w", files[name], err)
		}
		if needs := moduleNeeds.FindSubmatch(b); needs != nil {
			for _, need := range strings.Split(string(needs[1]), ",") {
				if err := add(need); err != nil {
					return err
				}
			}
		}
		ordered = append(ordered, files[name])
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return ordered, nil
}

// writeDisk makes the guest's disk: a file system with the programs, nft with its libraries,
// and room for the agent's data.
func writeDisk(file string, k *guestKit, agentd string) (err error) {
	tree := file + ".tree"
	defer func() { err = errors.Join(err, os.RemoveAll(tree)) }()
	copies := map[string]string{"bin/agentd": agentd, "bin/e2e": k.self, "nft/nft": k.tools["nft"]}
	out, err := command(k.tools["ldd"], k.tools["nft"])
	if err != nil {
		return err
	}
	for _, lib := range regexp.MustCompile(`/\S+`).FindAllString(out, -1) {
		name := filepath.Base(lib)
		if strings.HasPrefix(name, "ld-linux") {
			name = "loader"
		}
		copies["nft/"+name] = lib
	}
	for to, from := range copies {
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		to = filepath.Join(tree, to)
		if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, b, 0o755)); err != nil {
			return err
		}
	}
	_, err = command(k.tools["mkfs.ext4"], "-q", "-F", "-d", tree, file, "512M")
	return err
}
