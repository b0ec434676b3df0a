package execute

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/agentplane/agentplane/proto/blob"
)

// File is a file that is put in place before the program starts.
type File struct {
	// From is where its content lies on this host, and Content what that must be.
	From    string
	Content blob.Ref
	// Path is its place: absolute and clean.
	Path string
	Mode fs.FileMode // permission bits
}

// placement is a File as the supervisor reads it.
type placement struct {
	Path []byte
	Mode fs.FileMode
	Sum  string
	Size int64
}

func (s Spec) placements() []placement {
	var all []placement
	for _, f := range s.Files {
		all = append(all, placement{Path: []byte(f.Path), Mode: f.Mode, Sum: f.Content.Sum, Size: f.Content.Size})
	}
	return all
}

func (s Spec) checkFiles() error {
	if len(s.Files) > blob.MaxFiles {
		return fmt.Errorf("%w: %d files are above the maximum %d", ErrInvalid, len(s.Files), blob.MaxFiles)
	}
	for i, f := range s.Files {
		switch {
		case !filepath.IsAbs(f.Path) || filepath.Clean(f.Path) != f.Path || f.Path == "/":
			return fmt.Errorf("%w: file %.100q is not an absolute path, or not a clean one", ErrInvalid, f.Path)
		case f.Mode&^blob.MaxMode != 0:
			return fmt.Errorf("%w: file %.100q: mode %#o is above %#o", ErrInvalid, f.Path, uint32(f.Mode), blob.MaxMode)
		case slices.ContainsFunc(s.Files[:i], func(g File) bool { return g.Path == f.Path }):
			return fmt.Errorf("%w: two files shall be %.100q", ErrInvalid, f.Path)
		}
	}
	return nil
}

// bring links what the command brings along into the new directory.
func (d directory) bring(s Spec) error {
	for i, f := range s.Files {
		if err := link(f.From, d.path(fileContent+strconv.Itoa(i))); err != nil {
			return fmt.Errorf("take the content of file %q: %w", f.Path, err)
		}
	}
	if s.Stdin == "" {
		return nil
	}
	if err := link(s.Stdin, d.path(fileStdin)); err != nil {
		return fmt.Errorf("take the standard input: %w", err)
	}
	return nil
}

// link makes a second name for a file, or a copy where the file system has no such thing.
func link(from, to string) error {
	err := os.Link(from, to)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// forgetBrought removes what has no use any more once the program runs, or never will.
func (d directory) forgetBrought() {
	_ = os.Remove(d.path(fileStdin))
	for i := range blob.MaxFiles {
		if os.Remove(d.path(fileContent+strconv.Itoa(i))) != nil {
			return // there are no more
		}
	}
}

// Input is what the program reads. Nothing is left of it in the directory: it is open.
func (s *Supervision) Input() (*os.File, error) {
	if !s.spec.Stdin {
		return os.Open(os.DevNull)
	}
	f, err := os.Open(s.d.path(fileStdin))
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// checkInput compares what the program will read with what it must be: it has lain on the disk
// since it came.
func (s *Supervision) checkInput() error {
	if !s.spec.Stdin || s.spec.Input.Sum == "" {
		return nil
	}
	return placement{Sum: s.spec.Input.Sum, Size: s.spec.Input.Size}.copy(io.Discard, s.d.path(fileStdin))
}

// Place puts the files of the attempt in their places; see the package comment. A result
// says that the program must not be started.
func (s *Supervision) Place() *Result {
	files := s.spec.Files
	if err := s.checkInput(); err != nil {
		res := &Result{State: Failed, Reason: ReasonNotPlaced, ExitCode: 126}
		res.say("the standard input is not what the command brings along: %v", bare(err))
		return res
	}
	for i, f := range files {
		if s.d.has(fileCancel) {
			s.spec.sweepPlaces()
			return &Result{State: Canceled, Reason: ReasonCanceled, Detail: "canceled before the program was started", ExitCode: -1}
		}
		if err := f.write(s.d.path(fileContent+strconv.Itoa(i)), s.spec.temp(i)); err != nil {
			s.spec.sweepPlaces()
			return notPlaced(f, 0, err)
		}
	}
	s.d.fault("supervisor-written")
	if len(files) > 0 {
		if err := s.d.mark(filePlacing); err != nil {
			s.spec.sweepPlaces()
			return notPlaced(files[0], 0, err)
		}
	}
	for i, f := range files {
		if err := os.Rename(s.spec.temp(i), string(f.Path)); err != nil {
			s.spec.sweepPlaces()
			if i == 0 {
				_ = os.Remove(s.d.path(filePlacing)) // else the undo runs with nothing to do
			}
			return notPlaced(f, i, err)
		}
		s.d.fault("supervisor-renamed")
	}
	for i, f := range files {
		if dir := filepath.Dir(string(f.Path)); i == 0 || dir != filepath.Dir(string(files[i-1].Path)) {
			if err := syncDir(dir); err != nil {
				return notPlaced(f, len(files), err)
			}
		}
	}
	s.d.fault("supervisor-placed")
	for i := range files {
		_ = os.Remove(s.d.path(fileContent + strconv.Itoa(i)))
	}
	return nil
}

// temp is the name under which the i-th file is written.
func (sf specFile) temp(i int) string {
	return filepath.Join(filepath.Dir(string(sf.Files[i].Path)), ".agentplane-"+sf.Attempt.dirName()+"-"+strconv.Itoa(i))
}

// sweepPlaces removes files that were not renamed.
func (sf specFile) sweepPlaces() {
	for i := range sf.Files {
		_ = os.Remove(sf.temp(i)) // most are not there
	}
}

// write makes the file under the other name, durably.
func (f placement) write(from, temp string) (err error) {
	if st, err := os.Lstat(string(f.Path)); err == nil && st.IsDir() {
		return errors.New("a directory is in its place")
	}
	// What lies there under this name is not ours, and a link is not followed.
	out, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("a file cannot be made in %q: %w", filepath.Dir(temp), bare(err))
	}
	defer func() {
		if err != nil {
			_ = out.Close() // a second close does no harm
			_ = os.Remove(temp)
		}
	}()
	if err := f.copy(out, from); err != nil {
		return err
	}
	if err := out.Chmod(f.Mode); err != nil { // whatever the umask is
		return bare(err)
	}
	if err := out.Sync(); err != nil {
		return bare(err)
	}
	return bare(out.Close())
}

func (f placement) copy(out io.Writer, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	check, b := blob.NewCheck(blob.Ref{Sum: f.Sum, Size: f.Size}), make([]byte, blob.ChunkBytes)
	for {
		n, err := in.Read(b)
		if cerr := check.Add(b[:n]); cerr != nil && comparesContents {
			return cerr
		}
		if _, werr := out.Write(b[:n]); werr != nil {
			return bare(werr)
		}
		if errors.Is(err, io.EOF) && !comparesContents {
			return nil
		}
		if errors.Is(err, io.EOF) {
			return check.Done()
		}
		if err != nil {
			return err
		}
	}
}

// bare is the cause without the path, which people do not know.
func bare(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	if l, ok := errors.AsType[*os.LinkError](err); ok {
		return l.Err
	}
	return err
}

// notPlaced is the result when a file cannot be put in place; before says how many were.
func notPlaced(f placement, before int, err error) *Result {
	res := &Result{State: Failed, Reason: ReasonNotPlaced, ExitCode: 126}
	res.say("file %q was not put in place: %v", f.Path, bare(err))
	if before > 0 {
		res.say("%d files before it are new", before)
	}
	return res
}
