package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/blob"
	"github.com/agentplane/agentplane/proto/client"
)

// fileFlags are what a command brings along.
type fileFlags struct {
	files []string
	stdin string
	told  *uploading // nil when nothing is brought
}

func (f *fileFlags) add(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.files, "file", nil, "put a file in place before the program starts, `LOCAL:REMOTE[:MODE]`; may be repeated")
	c.Flags().StringVar(&f.stdin, "stdin", "", "what the program reads: agentctl's own standard input, or of --stdin=`FILE` that file")
	c.Flags().Lookup("stdin").NoOptDefVal = "-"
}

// bring reads what the command brings along, and has its upload told of.
func (f *fileFlags) bring(a *app, command *client.Command) error {
	if len(f.files) > blob.MaxFiles {
		return usagef("--file is given %d times, at most %d files are allowed: pack them into one", len(f.files), blob.MaxFiles)
	}
	for _, word := range f.files {
		file, err := readFile(word)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(command.Files, func(g client.File) bool { return g.Path == file.Path }) {
			return usagef("--file %q: another --file has the place %s", word, file.Path)
		}
		command.Files = append(command.Files, file)
	}
	if f.stdin != "" {
		content, err := a.readStdin(f.stdin)
		if err != nil {
			return err
		}
		command.Stdin = content
	}
	f.told = newUploading(a)
	command.OnUpload = f.told.sent
	return nil
}

func (a *app) readStdin(from string) (*client.Content, error) {
	if from != "-" {
		content, err := client.FileContent(from)
		if err != nil {
			return nil, usagef("--stdin: %w", err)
		}
		return content, nil
	}
	r, err := a.fromStdin("--stdin")
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, blob.MaxBytes+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read standard input: %w", err)
	case len(b) > blob.MaxBytes:
		return nil, usagef("--stdin: there are more than the %d bytes that are allowed: let the program fetch them", blob.MaxBytes)
	}
	return client.BytesContent("standard input", b)
}

// readFile reads one LOCAL:REMOTE[:MODE].
func readFile(word string) (client.File, error) {
	local, remote, mode, err := splitFile(word)
	if err != nil {
		return client.File{}, err
	}
	content, err := client.FileContent(local)
	if err != nil {
		return client.File{}, usagef("--file: %w", err)
	}
	if mode == 0 {
		st, err := os.Stat(local)
		if err != nil {
			return client.File{}, usagef("--file: %w", err)
		}
		mode = st.Mode().Perm()
	}
	file := client.File{Content: content, Path: remote, Mode: mode}
	if err := blob.CheckFile(&agentplanev1.File{Path: remote, Mode: uint32(mode), Content: content.Ref.Proto()}); err != nil {
		return client.File{}, usagef("--file %q: %w", word, err)
	}
	return file, nil
}

// splitFile takes LOCAL:REMOTE[:MODE] apart. Mode 0 is none.
func splitFile(word string) (local, remote string, mode fs.FileMode, err error) {
	local, remote, ok := strings.Cut(word, ":/")
	if !ok {
		local, remote, ok = strings.Cut(word, ":")
		if !ok || remote == "" {
			return "", "", 0, usagef("--file %q: write it as LOCAL:REMOTE, as in ./nginx.conf:/etc/nginx/nginx.conf", word)
		}
		return "", "", 0, usagef("--file %q: the place %q on the host is not absolute; write it as in %s:/etc/%s", word, remote, local, filepath.Base(local))
	}
	remote = "/" + remote
	if at := strings.LastIndexByte(remote, ':'); at >= 0 {
		digits := remote[at+1:]
		n, perr := strconv.ParseUint(digits, 8, 32)
		if perr != nil || len(digits) < 3 || n == 0 || n > blob.MaxMode {
			return "", "", 0, usagef("--file %q: %q is no mode from 0001 to 0777, as 0644; when it belongs to the place, write the mode behind it: %s:0644", word, digits, word)
		}
		remote, mode = remote[:at], fs.FileMode(n)
	}
	switch {
	case local == "":
		return "", "", 0, usagef("--file %q: which file is meant? Write it as LOCAL:REMOTE", word)
	case strings.HasSuffix(remote, "/"):
		return "", "", 0, usagef("--file %q: the place is a directory; name the file in it: %s", word, path.Join(remote, filepath.Base(local)))
	}
	return local, remote, mode, nil
}

// uploading tells how far uploads are, on stderr.
type uploading struct {
	app      *app
	terminal bool
	last     time.Time
	name     string
	drawn    bool
}

func newUploading(a *app) *uploading { return &uploading{app: a, terminal: isTerminal(a.stderr)} }

func (u *uploading) sent(x *client.Content, n int64) {
	if !u.terminal {
		if u.name != x.Name {
			u.app.talk("uploading %s (%s)", x.Name, byteText(x.Ref.Size))
		}
		u.name = x.Name
		return
	}
	if time.Since(u.last) >= 100*time.Millisecond {
		fmt.Fprintf(u.app.stderr, "\r\x1b[Kuploading %s: %s of %s", printable(x.Name), byteText(n), byteText(x.Ref.Size))
		u.last, u.drawn = time.Now(), true
	}
}

// end takes the line away.
func (u *uploading) end() {
	if u != nil && u.drawn {
		fmt.Fprint(u.app.stderr, "\r\x1b[K")
	}
}

// byteText is a number of bytes for people.
func byteText(n int64) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	default:
		return count(int(n), "byte")
	}
}

// contentText says in short which content it is.
func contentText(b *agentplanev1.Blob) string {
	return fmt.Sprintf("%s, sha256 %.12s", byteText(int64(b.GetSize())), b.GetSha256())
}

func fileText(f *agentplanev1.File) string {
	mode := f.GetMode()
	if mode == 0 {
		mode = blob.DefaultMode
	}
	return fmt.Sprintf("%s, mode %04o, %s", printable(f.GetPath()), mode, contentText(f.GetContent()))
}

// broughtPairs are the lines about what a command brought along.
func broughtPairs(spec *agentplanev1.CommandSpec) (lines [][2]string) {
	for _, f := range spec.GetFiles() {
		lines = append(lines, [2]string{"file", fileText(f)})
	}
	if spec.GetStdin() != nil {
		lines = append(lines, [2]string{"stdin", contentText(spec.GetStdin())})
	}
	return lines
}

// writeBroughtAgain says what a command that runs again brings along as the earlier one did.
func writeBroughtAgain(w io.Writer, spec *agentplanev1.CommandSpec, missing []*agentplanev1.Blob) {
	kept := func(b *agentplanev1.Blob) string {
		if slices.ContainsFunc(missing, func(m *agentplanev1.Blob) bool { return m.GetSha256() == b.GetSha256() }) {
			return "; the cluster has it no more"
		}
		return "; the cluster has it"
	}
	for _, f := range spec.GetFiles() {
		fmt.Fprintf(w, "brings again %s%s\n", fileText(f), kept(f.GetContent()))
	}
	if spec.GetStdin() != nil {
		fmt.Fprintf(w, "brings again for the program to read %s%s\n", contentText(spec.GetStdin()), kept(spec.GetStdin()))
	}
}

// writeBrought says what a command would bring along.
func writeBrought(w io.Writer, command *client.Command, missing []*agentplanev1.Blob) {
	upload := func(ref blob.Ref) string {
		if slices.ContainsFunc(missing, func(b *agentplanev1.Blob) bool { return b.GetSha256() == ref.Sum }) {
			return "; it is uploaded first"
		}
		return "; the cluster has it"
	}
	for _, f := range command.Files {
		text := fileText(&agentplanev1.File{Path: f.Path, Mode: uint32(f.Mode), Content: f.Content.Ref.Proto()})
		fmt.Fprintf(w, "brings %s as %s%s\n", printable(f.Content.Name), text, upload(f.Content.Ref))
	}
	if command.Stdin != nil {
		fmt.Fprintf(w, "brings %s for the program to read, %s%s\n", printable(command.Stdin.Name), contentText(command.Stdin.Ref.Proto()), upload(command.Stdin.Ref))
	}
}
