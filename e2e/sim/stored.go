package sim

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// storedOutput is what is durable of the files in which a node keeps output. It makes them
// so when it opens them, and from then on writes them without that: in no life is its log
// of them long enough for another time. So a loss of power may take what was written since,
// and that log, which is fsynced, brings it back.
type storedOutput struct {
	known bool             // a life that ended by itself may have left anything
	wals  string           // the logs that there were when the life began
	files map[string]int64 // their lengths
}

// end notes what the next life will have made durable, and takes away what a loss of power
// may.
func (s *storedOutput) end(dir string, how death) error {
	dir = filepath.Join(dir, "output")
	wals, files := outputWals(dir), outputFiles(dir)
	was := *s
	if wals == was.wals { // it has not opened them
		return nil
	}
	*s = storedOutput{known: how != byItself, wals: wals, files: files}
	if how != byPower || !was.known {
		return nil
	}
	var err error
	for name, size := range files {
		path := filepath.Join(dir, "attempts", name)
		if old, there := was.files[name]; !there {
			err = errors.Join(err, os.Remove(path))
		} else if size > old {
			err = errors.Join(err, os.Truncate(path, old))
		}
	}
	return err
}

func outputWals(dir string) string {
	var names []string
	for _, f := range listed(dir) {
		if strings.HasPrefix(f.Name(), "wal-") {
			names = append(names, f.Name())
		}
	}
	return strings.Join(names, " ")
}

func outputFiles(dir string) map[string]int64 {
	all := make(map[string]int64)
	for _, f := range listed(filepath.Join(dir, "attempts")) {
		if st, err := f.Info(); err == nil {
			all[f.Name()] = st.Size()
		}
	}
	return all
}

// listed are the files in a directory; none before a node is a member.
func listed(dir string) []fs.DirEntry {
	all, _ := os.ReadDir(dir)
	return all
}
