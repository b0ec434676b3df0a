package configs

import (
	"path/filepath"
	"strings"

	"github.com/fsnotify/fsnotify"
)

// A linkFollower also watches the directory into which the path's symbolic links
// lead, since the file may be replaced there.
type linkFollower struct {
	notify *fsnotify.Watcher // nil when nothing can be watched
	path   string
	target string // where the links lead; "" when nowhere
}

func newLinkFollower(notify *fsnotify.Watcher, path string) *linkFollower {
	f := &linkFollower{notify: notify, path: path}
	f.update()
	return f
}

// update follows links that have moved, and takes up the directory of the path
// again where it was replaced as a whole.
func (f *linkFollower) update() {
	if f.notify != nil {
		_ = f.notify.Add(filepath.Dir(f.path)) // without it the poll remains
	}
	target, err := filepath.EvalSymlinks(f.path)
	if err != nil || f.notify == nil || target == f.target {
		return
	}
	own, old, now := filepath.Dir(f.path), filepath.Dir(f.target), filepath.Dir(target)
	if f.target != "" && old != own && old != now {
		_ = f.notify.Remove(old) // it may be gone already
	}
	if now != own {
		_ = f.notify.Add(now) // without it the poll remains
	}
	f.target = target
}

// concerns reports whether something that happened to name may have changed the
// file. Names that begin with two dots are the links by which containers swap all
// files of a directory at once.
func (f *linkFollower) concerns(name string) bool {
	base := filepath.Base(name)
	return base == filepath.Base(f.path) || base == filepath.Base(f.target) || strings.HasPrefix(base, "..")
}
