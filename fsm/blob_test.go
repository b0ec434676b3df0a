package fsm

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// sumOf is the SHA-256 of a blob that a story calls so.
func sumOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

// checkBlobs counts by hand who names a blob.
func checkBlobs(t *tables) error {
	users := make(map[string]uint32)
	for c := range t.commands.all() {
		if !slices.IsSorted(c.GetBlobs()) {
			return fmt.Errorf("command %q: its blobs do not ascend", c.GetId())
		}
		for _, sum := range c.GetBlobs() {
			if _, found := t.blobs.get(sum); !found && !done(c) {
				return fmt.Errorf("command %q is not done and names blob %.12s, which is gone", c.GetId(), sum)
			}
			if !done(c) {
				users[sum]++
			}
		}
	}
	for b := range t.blobs.all() {
		if b.GetUsers() != users[b.GetSha256()] || (b.GetIdleSince() == 0) != (b.GetUsers() > 0) || b.GetIdleSince() > t.cluster.GetNow() {
			return fmt.Errorf("blob %v: %d commands name it", b, users[b.GetSha256()])
		}
		if len(b.GetNodeIds()) == 0 || !slices.IsSorted(b.GetNodeIds()) {
			return fmt.Errorf("blob %v: its nodes are none, or do not ascend", b)
		}
	}
	return nil
}

const (
	genMaxBytes = 500
	genMaxBlobs = 4
)

var genBlobs = []string{"p", "q", "r", "s", "t", "u"}

func genBlobSize(name string) uint64 { return uint64(name[0]-'p') * 100 }

func (g *gen) blobRef() *raftlogv1.BlobRef {
	name := g.of(genBlobs)
	b := &raftlogv1.BlobRef{Sha256: sumOf(name), Size: genBlobSize(name)}
	switch g.random.IntN(30) {
	case 0:
		b.Size = MaxBlobBytes + 1
	case 1:
		b.Size++
	case 2:
		b.Sha256 = strings.ToUpper(b.GetSha256())
	}
	return b
}

func (g *gen) blobs() (refs []*raftlogv1.BlobRef) {
	for range g.pick(0, 0, 0, 1, 1, 2, 3) {
		refs = append(refs, g.blobRef())
	}
	slices.SortFunc(refs, func(a, b *raftlogv1.BlobRef) int { return strings.Compare(a.GetSha256(), b.GetSha256()) })
	if g.rarely(10) {
		slices.Reverse(refs)
	}
	return refs
}

func (g *gen) blobMutation() *raftlogv1.Mutation {
	if g.rarely(6) {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ExpireBlobs{ExpireBlobs: &raftlogv1.ExpireBlobs{
			Keep: int64(g.pick(-1, 0, 1, 60)) * int64(time.Second), Max: uint32(g.pick(0, 1, 10)),
		}}}
	}
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RecordBlob{RecordBlob: &raftlogv1.RecordBlob{
		NodeId: g.of([]string{"n1", "n1", "n1", "n2", "n3"}), Blob: g.blobRef(),
		NodeIds:  [][]string{{"n1"}, {"n1"}, {"n1", "n2"}, {"n2"}, {"n2", "n1"}, {"n1", "n4"}, nil}[g.random.IntN(7)],
		MaxBytes: genMaxBytes, MaxBlobs: genMaxBlobs,
	}}}
}
