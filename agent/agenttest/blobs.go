package agenttest

import (
	"crypto/sha256"
	"encoding/hex"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// Have lets the nodes have a content, and gives its name.
func (c *Cluster) Have(content string) *agentplanev1.Blob {
	sum := sha256.Sum256([]byte(content))
	b := &agentplanev1.Blob{Sha256: hex.EncodeToString(sum[:]), Size: uint64(len(content))}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.blobs[b.GetSha256()] = content
	return b
}

// Spoil lets the nodes send another content under the name, and Lose none.
func (c *Cluster) Spoil(b *agentplanev1.Blob, content string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.blobs[b.GetSha256()] = content
}

// Lose lets the nodes have the content no more.
func (c *Cluster) Lose(b *agentplanev1.Blob) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.blobs, b.GetSha256())
}

// Fetching lets f be asked before a content is sent: its error is the answer. nil lets all
// be sent.
func (c *Cluster) Fetching(f func(req *agentplanev1.FetchBlobRequest, done <-chan struct{}) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fetching = f
}

// Fetched returns how often contents were asked for.
func (c *Cluster) Fetched() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fetched
}

// FetchBlob sends what Have was given.
func (h sessions) FetchBlob(req *agentplanev1.FetchBlobRequest, stream grpc.ServerStreamingServer[agentplanev1.FetchBlobResponse]) error {
	c := h.node.cluster
	c.mu.Lock()
	content, found := c.blobs[req.GetBlob().GetSha256()]
	ask := c.fetching
	c.fetched++
	c.changedLocked()
	c.mu.Unlock()
	if ask != nil {
		if err := ask(req, stream.Context().Done()); err != nil {
			return err
		}
	}
	if !found {
		return refusal(codes.NotFound, "no_blob", "no node has it")
	}
	for len(content) > 0 {
		n := min(len(content), 1000)
		if err := stream.Send(&agentplanev1.FetchBlobResponse{Data: []byte(content[:n])}); err != nil {
			return err
		}
		content = content[n:]
	}
	return nil
}
