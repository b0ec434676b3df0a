package blob

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

func refOf(t testing.TB, content []byte) Ref {
	t.Helper()
	r, err := Of(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// parts gives the content in parts of n bytes.
func parts(content []byte, n int) func() ([]byte, error) {
	return func() ([]byte, error) {
		if len(content) == 0 {
			return nil, io.EOF
		}
		b := content[:min(n, len(content))]
		content = content[len(b):]
		return b, nil
	}
}

func open(t testing.TB, dir string) (*Dir, []Stored) {
	t.Helper()
	d, all, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return d, all
}

func read(d *Dir, r Ref) ([]byte, error) {
	var b []byte
	err := d.Send(r, func(part []byte) error {
		b = append(b, part...)
		return nil
	})
	return b, err
}

func TestContentsComeBackAsTheyWerePut(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "blobs")
	d, _ := open(t, dir)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, ChunkBytes - 1, ChunkBytes, ChunkBytes + 1, 3 * ChunkBytes, MaxBytes} {
		content := make([]byte, n)
		for i := range content {
			content[i] = byte(rng.Uint32())
		}
		r := refOf(t, content)
		for range 2 { // the second time it is there
			if err := d.Put(r, parts(content, 100_000)); err != nil {
				t.Fatalf("%d bytes: %v", n, err)
			}
		}
		got, err := read(d, r)
		if err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%d bytes came back as %d (%v)", n, len(got), err)
		}
		st, err := os.Stat(d.Path(r))
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("mode %v (%v), want 0600", st.Mode(), err)
		}
	}
	_, all := open(t, dir)
	if len(all) != 7 {
		t.Errorf("%d blobs are found again, want 7", len(all))
	}
	if _, err := Of(bytes.NewReader(make([]byte, MaxBytes+1))); err == nil {
		t.Error("a content above the maximum has a name")
	}
}

func TestAnotherContentIsNotKept(t *testing.T) {
	dir := t.TempDir()
	d, _ := open(t, dir)
	content := []byte("what was meant")
	r := refOf(t, content)
	broken := errors.New("the connection broke")
	for name, c := range map[string]struct {
		next func() ([]byte, error)
		want error
	}{
		"other bytes":    {parts([]byte("what was moant"), 5), ErrMismatch},
		"fewer bytes":    {parts(content[:5], 5), ErrMismatch},
		"more bytes":     {parts(append(content, '!'), 5), ErrMismatch},
		"a broken end":   {func() ([]byte, error) { return nil, broken }, broken},
		"nothing at all": {parts(nil, 1), ErrMismatch},
	} {
		if err := d.Put(r, c.next); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := read(d, r); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is there: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("%v is left", left)
	}
	if err := d.Put(Ref{Sum: "../../etc/passwd", Size: 3}, parts(content, 3)); !errors.Is(err, ErrInvalid) {
		t.Errorf("a name that is no hash: %v", err)
	}
}

func TestWhatTheDiskHasSpoiltIsFound(t *testing.T) {
	d, _ := open(t, t.TempDir())
	content := []byte("what was kept")
	r := refOf(t, content)
	if err := d.Put(r, parts(content, 3)); err != nil || d.Verify(r) != nil {
		t.Fatal(err)
	}
	for _, spoilt := range []string{"what was kopt", "what", "what was kept!"} {
		if err := os.WriteFile(d.Path(r), []byte(spoilt), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := d.Verify(r); !errors.Is(err, ErrMismatch) {
			t.Errorf("%q: %v", spoilt, err)
		}
	}
}

// A process that dies in Put leaves the blob whole or not at all, and the next start
// removes what it had begun.
func TestCrashesLeaveBlobsWholeOrNotAtAll(t *testing.T) {
	type death struct{}
	for point, there := range map[string]bool{"written": false, "synced": false, "renamed": true} {
		t.Run(point, func(t *testing.T) {
			dir := t.TempDir()
			d, _ := open(t, dir)
			content := []byte("what a crash meets")
			r := refOf(t, content)
			fault = func(p string) {
				if p == point {
					panic(death{})
				}
			}
			func() {
				defer func() {
					fault = func(string) {}
					if _, died := recover().(death); !died {
						t.Fatal("it did not come to the point")
					}
				}()
				// A panic runs what is deferred, which a death does not: what that removes is
				// put back below.
				_ = d.Put(r, parts(content, 4))
			}()
			if !there {
				if err := os.WriteFile(filepath.Join(dir, tempPrefix+"1"), content[:5], 0o600); err != nil {
					t.Fatal(err)
				}
			}
			d, all := open(t, dir)
			if got := len(all) == 1; got != there {
				t.Errorf("found again: %v, want %v", got, there)
			}
			if left, _ := os.ReadDir(dir); len(left) != len(all) {
				t.Errorf("%v is left", left)
			}
			if err := d.Put(r, parts(content, 4)); err != nil || d.Verify(r) != nil {
				t.Errorf("it cannot be put again: %v", err)
			}
		})
	}
}

func file(path string, mode uint32) *agentplanev1.File {
	return &agentplanev1.File{Path: path, Mode: mode, Content: &agentplanev1.Blob{Sha256: strings.Repeat("0a", 32), Size: 7}}
}

func TestFilesThatCannotBePutInPlaceAreRefused(t *testing.T) {
	for p, want := range map[string]string{
		"":                                      "not absolute",
		"etc/passwd":                            "not absolute",
		"./x":                                   "not absolute",
		"/":                                     "..",
		"/etc/../passwd":                        `write it as "/passwd"`,
		"/../x":                                 `write it as "/x"`,
		"/etc//x":                               `write it as "/etc/x"`,
		"/etc/x/":                               `write it as "/etc/x"`,
		"/etc/./x":                              `write it as "/etc/x"`,
		"/etc/\x00":                             "zero byte",
		"/" + strings.Repeat("a", MaxPathBytes): "at most 1024",
	} {
		if err := CheckFile(file(p, 0o644)); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", p, err, want)
		}
	}
	for _, p := range []string{"/x", "/etc/nginx/nginx.conf", "/ä/..b", "/a b"} {
		if err := CheckFile(file(p, 0)); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
	if err := CheckFile(file("/x", 0o4755)); err == nil {
		t.Error("a file with another's rights is taken")
	}
	for _, b := range []*agentplanev1.Blob{nil, {Sha256: "abc"}, {Sha256: strings.Repeat("0A", 32)}, {Sha256: strings.Repeat("0a", 32), Size: MaxBytes + 1}} {
		if err := CheckFile(&agentplanev1.File{Path: "/x", Content: b}); !errors.Is(err, ErrInvalid) {
			t.Errorf("content %v: %v", b, err)
		}
	}
}

func TestWhatACommandBringsIsBounded(t *testing.T) {
	s := &agentplanev1.CommandSpec{Files: []*agentplanev1.File{file("/b", 0), file("/a", 0)}, Stdin: &agentplanev1.Blob{Sha256: strings.Repeat("00", 32)}}
	refs, err := CheckBrought(s)
	if err != nil || len(refs) != 2 || refs[0].Sum > refs[1].Sum {
		t.Errorf("%v %v, want each content once and ascending", refs, err)
	}
	s.Files[1].Path = "/b"
	if _, err := CheckBrought(s); err == nil {
		t.Error("two files have one place")
	}
	s.Files[1].Path, s.Files[1].Content = "/c", &agentplanev1.Blob{Sha256: s.Files[0].GetContent().GetSha256(), Size: 8}
	if _, err := CheckBrought(s); err == nil {
		t.Error("a hash has two sizes")
	}
	s.Files = nil
	for range MaxFiles + 1 {
		s.Files = append(s.Files, file("/"+string(rune('a'+len(s.Files))), 0))
	}
	if _, err := CheckBrought(s); err == nil {
		t.Error("there are more files than there may be")
	}
}

// A path that is taken names one place below the root, in one way.
func FuzzCheckFile(f *testing.F) {
	for _, s := range []string{"/etc/x", "/..", "/a/../b", "x", "/\x00", "//"} {
		f.Add(s, uint32(0o644), strings.Repeat("0a", 32), uint64(3))
	}
	f.Fuzz(func(t *testing.T, p string, mode uint32, sum string, size uint64) {
		err := CheckFile(&agentplanev1.File{Path: p, Mode: mode, Content: &agentplanev1.Blob{Sha256: sum, Size: size}})
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("%v", err)
			}
			return
		}
		if p[0] != '/' || len(p) < 2 || path.Join("/", p) != p || strings.Contains(p+"/", "/../") || mode > MaxMode || size > MaxBytes {
			t.Fatalf("%q %o %d is taken", p, mode, size)
		}
		if d := (&Dir{path: "/blobs"}).Path(Ref{Sum: sum}); path.Dir(d) != "/blobs" {
			t.Fatalf("%q lies outside of its directory", sum)
		}
	})
}
