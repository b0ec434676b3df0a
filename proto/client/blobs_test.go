package client_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/blob"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/client/clienttest"
)

// bringing is a command that brings a file and an input along.
func bringing(t *testing.T, text string) (*client.Command, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "local")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := client.FileContent(path)
	if err != nil {
		t.Fatal(err)
	}
	input, err := client.BytesContent("the input", []byte("input of "+text))
	if err != nil {
		t.Fatal(err)
	}
	return &client.Command{
		Selector: "all", Argv: []string{"cat"}, Files: []client.File{{Content: file, Path: "/etc/x", Mode: 0o600}}, Stdin: input,
	}, path
}

func uploads(cluster *clienttest.Cluster) (n int) {
	for _, node := range cluster.Nodes {
		for _, call := range node.Calls() {
			if call.Method == agentplanev1.BlobService_UploadBlob_FullMethodName {
				n++
			}
		}
	}
	return n
}

func TestSubmitUploadsWhatTheClusterLacks(t *testing.T) {
	cluster := clienttest.NewCluster(t, 3)
	cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{})
	c := newClient(t, quick(cluster.Options()))
	text := strings.Repeat("large ", 200_000)
	cmd, _ := bringing(t, text)
	var told atomic.Int64
	cmd.OnUpload = func(_ *client.Content, n int64) { told.Store(n) }
	if _, err := c.Submit(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	for _, x := range []*client.Content{cmd.Files[0].Content, cmd.Stdin} {
		b, found := cluster.State.Blob(x.Ref.Sum)
		if !found || int64(len(b)) != x.Ref.Size {
			t.Errorf("%s is not there, or has %d bytes", x.Name, len(b))
		}
	}
	if told.Load() == 0 {
		t.Error("nobody was told of the uploads")
	}
	before := uploads(cluster)
	cmd.ID = ""
	if _, err := c.Submit(t.Context(), cmd); err != nil || uploads(cluster) != before {
		t.Errorf("again: %v; %d uploads, want the %d before", err, uploads(cluster), before)
	}
	// Thrown away between the question and the submission.
	cmd.ID = ""
	dropped := false
	for _, n := range cluster.Nodes {
		n.Break(func(_ context.Context, method string) (error, bool) {
			if method == agentplanev1.CommandService_Submit_FullMethodName && !dropped {
				dropped = true
				cluster.State.DropBlobs()
			}
			return nil, false
		})
	}
	if _, err := c.Submit(t.Context(), cmd); err != nil || !dropped || uploads(cluster) != before+2 {
		t.Errorf("thrown away meanwhile: %v, dropped %v, %d uploads", err, dropped, uploads(cluster)-before)
	}
}

func TestNothingIsUploadedForACommandThatIsRefused(t *testing.T) {
	cluster := clienttest.NewCluster(t, 1)
	c := newClient(t, quick(cluster.Options()))
	cmd, _ := bringing(t, "x")
	_, err := c.Submit(t.Context(), cmd)
	if e := asError(t, err); e.Reason != "no_targets" || uploads(cluster) != 0 {
		t.Errorf("%v, after %d uploads", err, uploads(cluster))
	}
}

func TestAnUploadGoesOnWithTheNextNode(t *testing.T) {
	cluster := clienttest.NewCluster(t, 3)
	cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{})
	c := newClient(t, quick(cluster.Options()))
	cmd, _ := bringing(t, strings.Repeat("x", 3*blob.ChunkBytes))
	killed := ""
	cmd.OnUpload = func(x *client.Content, n int64) {
		if killed == "" && n > blob.ChunkBytes {
			for _, node := range cluster.Nodes {
				if node.Address == c.Address() {
					killed = node.ID
					node.Kill()
				}
			}
		}
	}
	if _, err := c.Submit(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	if b, found := cluster.State.Blob(cmd.Files[0].Content.Ref.Sum); killed == "" || !found || len(b) != 3*blob.ChunkBytes {
		t.Errorf("node %q died; there are %d bytes", killed, len(b))
	}
}

func TestAFileThatChangesIsNotSent(t *testing.T) {
	cluster := clienttest.NewCluster(t, 1)
	cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{})
	c := newClient(t, quick(cluster.Options()))
	for _, other := range []string{"longer than before", "shrt", "same."} {
		cmd, path := bringing(t, "befor")
		if err := os.WriteFile(path, []byte(other), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := c.Submit(t.Context(), cmd)
		if e := asError(t, err); e.Reason != "blob_mismatch" || e.OutcomeUnknown || !strings.Contains(e.Message, path) {
			t.Errorf("%q: %v, want that it was changed", other, err)
		}
	}
	cmd, path := bringing(t, "gone")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Submit(t.Context(), cmd); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a file that has gone: %v", err)
	}
	if n := cluster.State.Index(); n == 0 {
		t.Error("no state")
	}
}

func TestARefusedUploadIsSaidOnce(t *testing.T) {
	cluster := clienttest.NewCluster(t, 3)
	cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{})
	c := newClient(t, quick(cluster.Options()))
	for _, n := range cluster.Nodes {
		n.Break(func(_ context.Context, method string) (error, bool) {
			if method == agentplanev1.BlobService_UploadBlob_FullMethodName {
				return clienttest.Refusal(codes.ResourceExhausted, "blob_quota", "there is no room", "wait"), false
			}
			return nil, false
		})
	}
	cmd, path := bringing(t, "x")
	_, err := c.Submit(t.Context(), cmd)
	if e := asError(t, err); e.Reason != "blob_quota" || e.Hint != "wait" || !strings.Contains(e.Message, "there is no room") {
		t.Errorf("%v (%s)", err, path)
	}
	if n := uploads(cluster); n != 1 {
		t.Errorf("%d uploads, want one", n)
	}
}

func TestContentsThatCannotBeSent(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{dir: "directory", filepath.Join(dir, "none"): "no such file", "/dev/null": "not a regular file"} {
		if _, err := client.FileContent(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if _, err := client.BytesContent("it", make([]byte, blob.MaxBytes+1)); err == nil {
		t.Error("a content above the maximum is taken")
	}
	x, err := client.BytesContent("it", nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := x.Open()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); err != nil || len(b) > 0 || !slices.Equal(b, []byte{}) {
		t.Errorf("nothing is read as %q (%v)", b, err)
	}
}
