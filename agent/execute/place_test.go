package execute

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/agentplane/agentplane/proto/blob"
)

// content lays a content into the directory, as the cache would.
func content(t testing.TB, dir, text string) (string, blob.Ref) {
	t.Helper()
	sum := sha256.Sum256([]byte(text))
	r := blob.Ref{Sum: fmt.Sprintf("%x", sum), Size: int64(len(text))}
	path := filepath.Join(dir, r.Sum)
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path, r
}

func fileOf(t testing.TB, dir, text, path string) File {
	t.Helper()
	from, r := content(t, dir, text)
	return File{From: from, Content: r, Path: path, Mode: 0o640}
}

func TestProgramReadsItsInput(t *testing.T) {
	dir := t.TempDir()
	binary := string([]byte{0, 1, 2, 255, 254, '\n', 0}) + strings.Repeat("\x00\xff", 1000)
	for name, text := range map[string]string{"text": "one\ntwo\n", "binary": binary, "nothing": ""} {
		t.Run(name, func(t *testing.T) {
			s := shell("")
			s.Script, s.Argv = nil, []string{"cat"}
			s.Stdin, _ = content(t, dir, text)
			r, _ := newRunner(t)
			run := start(t, r, s)
			must(t, os.Remove(s.Stdin)) // whatever becomes of the cache
			res := wait(t, run)
			wantResult(t, res, Succeeded, ReasonExit)
			if got := text2(res.Head, res.Tail); got != text {
				t.Errorf("it printed %d bytes, want the %d of its input", len(got), len(text))
			}
			if run.d.has(fileStdin) {
				t.Error("the input still lies in the attempt's directory")
			}
		})
	}
}

// Of what the disk has spoilt a supervisor puts nothing in place.
func TestContentsAreComparedBeforeAProgramHasThem(t *testing.T) {
	for name, spoilt := range map[string]string{"a file": fileContent + "0", "the input": fileStdin, "nothing": ""} {
		t.Run(name, func(t *testing.T) {
			dir, to := t.TempDir(), filepath.Join(t.TempDir(), "x")
			s := shell("true")
			s.Files = []File{fileOf(t, dir, "a file", to)}
			s.Stdin, s.Input = content(t, dir, "the input")
			r, _ := newRunner(t)
			d := r.directory(s.Attempt)
			must(t, os.Mkdir(string(d), 0o700))
			lock, err := d.prepare(s.withDefaults(), "boot")
			must(t, err)
			defer lock.Close()
			if spoilt != "" {
				must(t, os.WriteFile(d.path(spoilt), []byte("something"), 0o600))
			}
			sup, err := Supervise(string(d))
			must(t, err)
			res := sup.Place()
			if spoilt == "" {
				if res != nil {
					t.Errorf("%+v", res)
				}
				return
			}
			if res == nil || res.State != Failed || res.Reason != ReasonNotPlaced || res.Started {
				t.Errorf("%+v", res)
			}
			if _, err := os.Stat(to); err == nil {
				t.Error("the file is in its place")
			}
		})
	}
}

// What the disk has spoilt since it came is given to no program, and nothing is put in place.
func TestSpoiltInputIsGivenToNoProgram(t *testing.T) {
	dir, witness := t.TempDir(), filepath.Join(t.TempDir(), "ran")
	to := filepath.Join(t.TempDir(), "x")
	s := shell("cat > " + witness)
	s.Stdin, s.Input = content(t, dir, "what was meant")
	s.Files = []File{fileOf(t, dir, "file", to)}
	must(t, os.WriteFile(s.Stdin, []byte("what was moant"), 0o600))
	r, _ := newRunner(t)
	res := wait(t, start(t, r, s))
	wantResult(t, res, Failed, ReasonNotPlaced)
	if res.Started || !strings.Contains(res.Detail, "standard input") {
		t.Errorf("%+v", res)
	}
	for _, path := range []string{witness, to} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is there", path)
		}
	}
	s.Attempt.InvocationID, s.Attempt.Number = "whole", 1
	must(t, os.WriteFile(s.Stdin, []byte("what was meant"), 0o600))
	wantResult(t, wait(t, start(t, r, s)), Succeeded, ReasonExit)
}

func text2(all ...[]Chunk) string { return text(slices.Concat(all...), Stdout) }

func TestInputIsAFile(t *testing.T) {
	s := shell(`head -c 3 >/dev/null; cat; ls -l /proc/$$/fd/0; [ -w /proc/self/fd/0 ] && echo writable; grep flags /proc/$$/fdinfo/0`)
	s.Stdin, _ = content(t, t.TempDir(), "abcdef")
	res := runOne(t, s)
	if out := text(res.Head, Stdout); !strings.Contains(out, "/inv-1@1/stdin") || !strings.Contains(out, "0100000") { // O_RDONLY
		t.Errorf("its input is no file that is open for reading:\n%s", out)
	}
}

func TestFilesAreInPlaceBeforeTheProgramStarts(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	dir, to := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(to, "old"), []byte("old"), 0o600))
	must(t, os.Symlink("/etc/passwd", filepath.Join(to, "link")))
	s := shell(fmt.Sprintf("cd %s; cat new old link; stat -c %%a new old; ls -A | wc -l", to))
	s.Files = []File{
		fileOf(t, dir, "new\n", filepath.Join(to, "new")), fileOf(t, dir, "newer\n", filepath.Join(to, "old")), fileOf(t, dir, "no link\n", filepath.Join(to, "link")),
	}
	s.Files[1].Mode = 0o755
	r, _ := newRunner(t)
	run := start(t, r, s)
	res := wait(t, run)
	wantResult(t, res, Succeeded, ReasonExit)
	if got := text(res.Head, Stdout); got != "new\nnewer\nno link\n640\n755\n3\n" {
		t.Errorf("the program saw %q", got)
	}
	for i := range s.Files {
		if run.d.has(fileContent + fmt.Sprint(i)) {
			t.Error("a content still lies in the attempt's directory")
		}
		if st, err := os.Stat(s.Files[i].From); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("the cache's file is %v (%v)", st, err)
		}
	}
}

func TestFilesAndInputAreOfTheFirstStep(t *testing.T) {
	dir, to := t.TempDir(), filepath.Join(t.TempDir(), "new")
	s := inSteps("cat; cat "+to+"; rm "+to, "cat; [ ! -e "+to+" ] && echo once")
	s.Files = []File{fileOf(t, dir, "file ", to)}
	s.Stdin, _ = content(t, dir, "input ")
	res := runOne(t, s)
	wantResult(t, res, Succeeded, ReasonExit)
	if out := text2(res.Head, res.Tail); out != "input file once\n" {
		t.Errorf("the steps printed %q", out)
	}
}

// What cannot be put in place keeps the program from starting, changes nothing, and is said
// by its name.
func TestAFileThatCannotBePlacedKeepsTheProgramFromStarting(t *testing.T) {
	for name, c := range map[string]struct {
		path func(to string) string
		say  string
	}{
		"no such directory":        {func(to string) string { return filepath.Join(to, "none", "x") }, "no such file or directory"},
		"a file in the way":        {func(to string) string { return filepath.Join(to, "old", "x") }, "not a directory"},
		"a directory in its place": {func(to string) string { return filepath.Join(to, "dir") }, "a directory is in its place"},
		"where nobody may write":   {func(string) string { return "/proc/x" }, "/proc"},
		"a full disk":              {func(string) string { return "/dev/full/x" }, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, to := t.TempDir(), t.TempDir()
			must(t, os.WriteFile(filepath.Join(to, "old"), []byte("old"), 0o600))
			must(t, os.Mkdir(filepath.Join(to, "dir"), 0o700))
			s := shell("touch " + filepath.Join(to, "ran"))
			s.Files = []File{fileOf(t, dir, "changed", filepath.Join(to, "old")), fileOf(t, dir, "x", c.path(to)), fileOf(t, dir, "y", filepath.Join(to, "y"))}
			res := runOne(t, s)
			wantResult(t, res, Failed, ReasonNotPlaced)
			if res.Started || res.ExitCode != 126 || !strings.Contains(res.Detail, c.path(to)) || !strings.Contains(res.Detail, c.say) {
				t.Errorf("result %+v, want the file and %q", res, c.say)
			}
			if b, _ := os.ReadFile(filepath.Join(to, "old")); string(b) != "old" {
				t.Errorf("the file before it is %q", b)
			}
			if left, _ := os.ReadDir(to); len(left) != 2 {
				t.Errorf("%v is left", left)
			}
		})
	}
}

// A file system of the kernel's that has no room, or may not be written.
func TestFullAndReadOnlyFileSystemsTakeNoFiles(t *testing.T) {
	dir, to := t.TempDir(), t.TempDir()
	if err := unix.Mount("tmpfs", to, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("SKIPPED, NOT TRIED: mounting a file system of its own needs root: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(to, unix.MNT_DETACH)) })
	must(t, os.WriteFile(filepath.Join(to, "old"), []byte("old"), 0o600))
	s := shell("touch " + filepath.Join(dir, "ran"))
	s.Files = []File{
		fileOf(t, dir, "changed", filepath.Join(to, "old")), fileOf(t, dir, strings.Repeat("x", 200_000), filepath.Join(to, "large")),
	}
	for _, say := range []string{"no space left on device", "read-only file system"} {
		res := runOne(t, s)
		wantResult(t, res, Failed, ReasonNotPlaced)
		if res.Started || !strings.Contains(res.Detail, say) || exists(filepath.Join(dir, "ran")) {
			t.Errorf("result %+v, want %q", res, say)
		}
		if b, _ := os.ReadFile(filepath.Join(to, "old")); string(b) != "old" {
			t.Errorf("%s: the file before it is %q", say, b)
		}
		if left, _ := os.ReadDir(to); len(left) != 1 {
			t.Errorf("%s: %v is left", say, left)
		}
		must(t, unix.Mount("tmpfs", to, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, "size=64k"))
	}
}

func TestSpoiltContentIsNotPlaced(t *testing.T) {
	dir, to := t.TempDir(), t.TempDir()
	s := shell("true")
	s.Files = []File{fileOf(t, dir, "good", filepath.Join(to, "x"))}
	must(t, os.WriteFile(s.Files[0].From, []byte("bad!"), 0o600))
	res := runOne(t, s)
	wantResult(t, res, Failed, ReasonNotPlaced)
	if left, _ := os.ReadDir(to); len(left) != 0 || res.Started {
		t.Errorf("%v is left; started %v", left, res.Started)
	}
}

func TestContentThatIsNotThereIsRejected(t *testing.T) {
	s := shell("true")
	s.Files = []File{{From: filepath.Join(t.TempDir(), "none"), Path: "/tmp/x", Mode: 0o644}}
	wantResult(t, runOne(t, s), Rejected, ReasonNotPrepared)
	s.Files, s.Stdin = nil, filepath.Join(t.TempDir(), "none")
	wantResult(t, runOne(t, s), Rejected, ReasonNotPrepared)
}

func TestFilesOfASpecAreChecked(t *testing.T) {
	for _, f := range []File{{Path: "x"}, {Path: "/a/../b"}, {Path: "/"}, {Path: "/x", Mode: os.ModeSetuid | 0o755}, {Path: "/x", Mode: 0o4755}} {
		s := shell("true")
		s.Files = []File{f}
		if s.Validate() == nil {
			t.Errorf("%+v is taken", f)
		}
	}
	s := shell("true")
	s.Files = []File{{Path: "/x"}, {Path: "/x"}}
	if s.Validate() == nil {
		t.Error("two files have one place")
	}
}

// Wherever the supervisor dies among its files, each is old or new and whole, the program
// has not run, and nothing is left under another name.
func TestADeathAmongFilesLeavesEachWhole(t *testing.T) {
	for _, point := range []string{"supervisor-begun", "supervisor-written", "supervisor-renamed", "supervisor-placed"} {
		t.Run(point, func(t *testing.T) {
			was := superviseEnv
			superviseEnv = append(slices.Clone(was), envFaults+"="+point)
			defer func() { superviseEnv = was }()
			dir, to := t.TempDir(), t.TempDir()
			s := shell("touch " + filepath.Join(to, "ran"))
			for i := range 3 {
				path := filepath.Join(to, fmt.Sprint(i))
				must(t, os.WriteFile(path, []byte("old"), 0o600))
				s.Files = append(s.Files, fileOf(t, dir, fmt.Sprintf("new %d", i), path))
			}
			s.Stdin, _ = content(t, dir, "input")
			r, _ := newRunner(t)
			run := start(t, r, s)
			res := wait(t, run)
			wantResult(t, res, Lost, ReasonSupervisorGone)
			if res.Started {
				t.Error("it is said to have started")
			}
			left, _ := os.ReadDir(to)
			if len(left) != 3 {
				t.Errorf("%v is left", left)
			}
			for i := range 3 {
				b, _ := os.ReadFile(filepath.Join(to, fmt.Sprint(i)))
				if string(b) != "old" && string(b) != fmt.Sprintf("new %d", i) {
					t.Errorf("file %d is %q", i, b)
				}
			}
			if run.d.has(fileStdin) || run.d.has(fileContent+"2") {
				t.Error("contents still lie in the attempt's directory")
			}
		})
	}
}

// agentd dies after the supervisor was born: whoever adopts the attempt finds that the
// program has its input and its files.
func TestAdoptedAttemptHasItsInput(t *testing.T) {
	dir, to := t.TempDir(), t.TempDir()
	s := shell("while [ ! -e " + filepath.Join(to, "go") + " ]; do sleep 0.01; done; cat; cat " + filepath.Join(to, "x"))
	s.Stdin, _ = content(t, dir, "input\n")
	s.Files = []File{fileOf(t, dir, "file\n", filepath.Join(to, "x"))}
	r, m := newRunner(t)
	run := start(t, r, s)
	supervisorOf(t, run.d)
	must(t, os.RemoveAll(dir)) // the cache
	next, err := Open(Options{Dir: r.dir, Journal: m})
	must(t, err)
	adopted, err := next.Adopt(s.Attempt)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(to, "go"), nil, 0o600))
	res := wait(t, adopted)
	wantResult(t, res, Succeeded, ReasonExit)
	if got := text(res.Head, Stdout); got != "input\nfile\n" {
		t.Errorf("it printed %q", got)
	}
	_ = wait(t, run)
}

func TestCancelBeforeTheFilesPlacesNone(t *testing.T) {
	dir, to := t.TempDir(), t.TempDir()
	s := shell("true")
	s.Files = []File{fileOf(t, dir, "x", filepath.Join(to, "x"))}
	r, _ := newRunner(t)
	s = s.withDefaults()
	d := r.directory(s.Attempt)
	must(t, os.Mkdir(string(d), 0o700))
	lock, err := d.prepare(s, "boot")
	must(t, err)
	defer lock.Close()
	must(t, d.cancel())
	sup := &Supervision{d: d}
	must(t, d.read(fileSpec, typeSpec, &sup.spec))
	if res := sup.Place(); res == nil || res.State != Canceled {
		t.Errorf("%+v", res)
	}
	if left, _ := os.ReadDir(to); len(left) != 0 {
		t.Errorf("%v is left", left)
	}
}
