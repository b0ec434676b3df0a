package identity

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMakeDirMakesMissingParents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "c")
	for range 2 { // one that exists is left as it is
		if err := MakeDir(path); err != nil {
			t.Fatal(err)
		}
	}
	for dir := path; filepath.Base(dir) != "a"; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil || info.Mode() != os.ModeDir|0o700 {
			t.Errorf("%s: %v, %v; want a directory of mode 0700", dir, info, err)
		}
	}
}

func TestMakeDirSaysWhatIsInTheWay(t *testing.T) {
	dir := t.TempDir()
	link, file, loop := filepath.Join(dir, "link"), filepath.Join(dir, "file"), filepath.Join(dir, "loop")
	if err := errors.Join(os.Symlink("/nonexistent/zzz", link), os.WriteFile(file, nil, 0o600), os.Symlink(loop, loop)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ path, want string }{
		"below a link to nothing":           {filepath.Join(link, "x", "y"), `"` + link + `" is a link to "/nonexistent/zzz", which does not exist`},
		"a link to nothing":                 {link, `is a link to "/nonexistent/zzz"`},
		"in a kernel's own file system":     {"/proc/foo", `"/proc" exists, but no directory can be made in it`},
		"deep in a kernel's file system":    {"/proc/foo/bar/baz", `"/proc" exists`},
		"a file":                            {file, `"` + file + `" is a file`},
		"below a file":                      {filepath.Join(file, "x"), "not a directory"},
		"below a link that leads to itself": {filepath.Join(loop, "x"), "too many levels of symbolic links"},
	} {
		t.Run(name, func(t *testing.T) {
			err := MakeDir(c.path)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("MakeDir(%q) = %v, want %q", c.path, err, c.want)
			}
		})
	}
}
