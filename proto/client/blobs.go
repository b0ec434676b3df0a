package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/blob"
)

const (
	// uploadTries is how often a blob is sent before it is given up, uploadFor how long one
	// try may take.
	uploadTries = 5
	uploadFor   = 2 * time.Minute
	// uploadRounds is how often what a command brings along is uploaded, because the
	// cluster has thrown it away before it saw the command.
	uploadRounds = 3
)

// Content is what a command brings along.
type Content struct {
	// Name is what it is called here, for errors: the path of a file.
	Name string
	Ref  blob.Ref
	// Open begins it anew each time. It must stay the same.
	Open func() (io.ReadCloser, error)
}

// File is a content that is put in its place on the host before the program starts.
type File struct {
	Content *Content
	// Path is the place: absolute, without .. in it.
	Path string
	// Mode is the permission bits; 0 is 0644.
	Mode fs.FileMode
}

// FileContent returns the content of a file, which it reads to know its hash. The file must
// stay as it is until the command is submitted; one that has changed is refused.
func FileContent(path string) (*Content, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case st.IsDir():
		return nil, fmt.Errorf("%q is a directory: name the files in it, or pack it into one", path)
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%q is not a regular file", path)
	case st.Size() > blob.MaxBytes:
		return nil, fmt.Errorf("%q has %d bytes, at most %d are allowed: let the program fetch it", path, st.Size(), blob.MaxBytes)
	}
	ref, err := blob.Of(f)
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", path, err)
	}
	return &Content{Name: path, Ref: ref, Open: func() (io.ReadCloser, error) { return os.Open(path) }}, nil
}

// BytesContent returns a content that is held in memory, which the caller must not change.
func BytesContent(name string, b []byte) (*Content, error) {
	ref, err := blob.Of(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &Content{Name: name, Ref: ref, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}, nil
}

// bringInto puts the names of what the command brings along into its spec.
func (c *Command) bringInto(spec *agentplanev1.CommandSpec) {
	for _, f := range c.Files {
		spec.Files = append(spec.Files, &agentplanev1.File{Path: f.Path, Mode: uint32(f.Mode), Content: f.Content.Ref.Proto()})
	}
	if c.Stdin != nil {
		spec.Stdin = c.Stdin.Ref.Proto()
	}
}

// contents are what the command brings along, each once.
func (c *Command) contents() map[string]*Content {
	all := map[string]*Content{}
	for _, f := range c.Files {
		all[f.Content.Ref.Sum] = f.Content
	}
	if c.Stdin != nil {
		all[c.Stdin.Ref.Sum] = c.Stdin
	}
	return all
}

// upload brings to the cluster what it lacks of what the command brings along.
func (c *Client) upload(ctx context.Context, cmd *Command) error {
	all := cmd.contents()
	if len(all) == 0 {
		return nil
	}
	req := &agentplanev1.FindBlobsRequest{}
	for _, sum := range slices.Sorted(maps.Keys(all)) {
		req.Blobs = append(req.Blobs, all[sum].Ref.Proto())
	}
	r, err := agentplanev1.NewBlobServiceClient(c).FindBlobs(ctx, req)
	if err != nil {
		return err
	}
	for _, b := range r.GetMissing() {
		if x := all[b.GetSha256()]; x != nil {
			if err := c.Upload(ctx, x, cmd.OnUpload); err != nil {
				return err
			}
		}
	}
	return nil
}

// Upload brings a content to the cluster, and returns when enough nodes have it on their
// disks. It stays for a while, and as long as a command names it that has not ended. When a
// node goes away another one is tried. sent, when it is not nil, is told how many bytes have
// been sent; it begins anew with each try. Submit uploads what is needed by itself.
func (c *Client) Upload(ctx context.Context, x *Content, sent func(x *Content, bytes int64)) error {
	for try := 1; ; try++ {
		err := c.uploadOnce(ctx, x, sent)
		if err == nil {
			return nil
		}
		e := AsError(err)
		switch {
		case ctx.Err() != nil:
			return &Error{Code: codes.Canceled, Message: fmt.Sprintf("interrupted while %s was uploaded", x.Name), cause: context.Cause(ctx)}
		case !e.again || try == uploadTries || errors.Is(e.cause, errClosed):
			own := *e
			own.Message, own.OutcomeUnknown = fmt.Sprintf("upload %s: %s", x.Name, e.Message), false
			return &own
		}
		if e.Address != "" {
			c.leave(e.Address, e)
		}
		if !pause(ctx, max(jitter(try), e.RetryAfter)) {
			continue // which says that it was interrupted
		}
	}
}

func (c *Client) uploadOnce(ctx context.Context, x *Content, sent func(*Content, int64)) error {
	in, err := x.Open()
	if err != nil {
		return &Error{Code: codes.InvalidArgument, Message: err.Error(), cause: err}
	}
	defer in.Close()
	ctx, cancel := context.WithTimeout(ctx, uploadFor)
	defer cancel() // frees the stream
	stream, err := agentplanev1.NewBlobServiceClient(c).UploadBlob(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&agentplanev1.UploadBlobRequest{Blob: x.Ref.Proto()}); err == nil {
		err = send(in, x, sent, func(b []byte) error { return stream.Send(&agentplanev1.UploadBlobRequest{Data: b}) })
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	_, err = stream.CloseAndRecv() // also when the node has answered, or broken off, before
	return err
}

// send reads the content and hands it on. io.EOF says that the other side takes no more.
func send(in io.Reader, x *Content, sent func(*Content, int64), out func([]byte) error) error {
	check, total, b := blob.NewCheck(x.Ref), int64(0), make([]byte, blob.ChunkBytes)
	changed := func(err error) error {
		return &Error{
			Code: codes.InvalidArgument, Reason: "blob_mismatch", Message: "it was changed while it was read", Hint: "run the command again", cause: err,
		}
	}
	for {
		n, err := io.ReadFull(in, b)
		if n > 0 {
			if err := check.Add(b[:n]); err != nil {
				return changed(err)
			}
			if err := out(b[:n]); err != nil {
				return err
			}
			if total += int64(n); sent != nil {
				sent(x, total)
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			if err := check.Done(); err != nil {
				return changed(err)
			}
			return nil
		case err != nil:
			return &Error{Code: codes.InvalidArgument, Message: strings.TrimSpace(err.Error()), cause: err}
		}
	}
}
