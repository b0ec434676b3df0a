package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/agentplane/agentplane/proto/blob"
)

func TestFilesAreTakenApart(t *testing.T) {
	for word, want := range map[string]struct {
		local, remote string
		mode          os.FileMode
	}{
		"a:/b":           {"a", "/b", 0},
		"./a.b:/c/d:644": {"./a.b", "/c/d", 0o644},
		"a:/b:0755":      {"a", "/b", 0o755},
		"a:b:/c":         {"a:b", "/c", 0},
		"/a b:/c d":      {"/a b", "/c d", 0},
	} {
		local, remote, mode, err := splitFile(word)
		if err != nil || local != want.local || remote != want.remote || mode != want.mode {
			t.Errorf("splitFile(%q) = %q %q %o %v, want %v", word, local, remote, mode, err, want)
		}
	}
}

func FuzzSplitFile(f *testing.F) {
	for _, word := range []string{"a:/b", "a:/b:644", ":/b", "a", "a:b", "a:/b:9", "a:/", "a:/../b", "a:/b:/c:600"} {
		f.Add(word)
	}
	f.Fuzz(func(t *testing.T, word string) {
		local, remote, mode, err := splitFile(word)
		if err != nil {
			var u *failure
			if !errors.As(err, &u) && err.Error() == "" {
				t.Fatalf("%q is refused without words", word)
			}
			return
		}
		if local == "" || !filepath.IsAbs(remote) || strings.HasSuffix(remote, "/") || mode > blob.MaxMode || !strings.HasPrefix(word, local+":"+remote) {
			t.Fatalf("%q became %q, %q and %o", word, local, remote, mode)
		}
	})
}
