package fsm

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"iter"
	"slices"
	"strings"
	"time"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Bounds of blobs, the contents that commands bring along.
const (
	// MaxBlobBytes bounds one blob, MaxBlobNodes the nodes that are noted to keep one, and
	// MaxCommandBlobs what one command names: 16 files and an input.
	MaxBlobBytes    = 16 << 20
	MaxBlobNodes    = 16
	MaxCommandBlobs = 17
	// blobFresh is how long a blob that nobody names stays whatever room is needed: who has
	// uploaded it is about to submit.
	blobFresh = time.Minute
)

// Why a mutation about blobs is refused.
const (
	NoBlob    = "no_blob"
	BlobQuota = "blob_quota"
)

// recordBlob notes which nodes keep a blob. A further record adds its nodes, and drops
// those that have left the cluster.
func (tx *tx) recordBlob(m *raftlogv1.RecordBlob) *raftlogv1.Outcome {
	if _, refusal := tx.registered(m.GetNodeId()); refusal != nil {
		return refusal
	}
	if refusal := cmp.Or(checkBlobRef(m.GetBlob()), tx.checkBlobNodes(m)); refusal != nil {
		return refusal
	}
	have, found := tx.blobs.get(m.GetBlob().GetSha256())
	if !found {
		if refusal := tx.makeRoom(m); refusal != nil {
			return refusal
		}
		put(tx, TableBlobs, tx.blobs, &raftlogv1.Blob{
			Sha256: m.GetBlob().GetSha256(), Size: m.GetBlob().GetSize(), NodeIds: m.GetNodeIds(), IdleSince: max(tx.now(), 1),
		})
		return ok()
	}
	if have.GetSize() != m.GetBlob().GetSize() {
		return refuse(raftlogv1.Code_CODE_CONFLICT, "blob_size", "blob %.12s is kept with %d bytes, not %d", have.GetSha256(), have.GetSize(), m.GetBlob().GetSize())
	}
	row := clone(have)
	nodes := slices.Concat(have.GetNodeIds(), m.GetNodeIds())
	nodes = slices.DeleteFunc(nodes, func(id string) bool {
		_, refusal := tx.registered(id)
		return refusal != nil
	})
	slices.Sort(nodes)
	if row.NodeIds = slices.Compact(nodes); len(row.NodeIds) > MaxBlobNodes {
		return refuse(raftlogv1.Code_CODE_EXHAUSTED, "nodes", "%d nodes would keep blob %.12s, at most %d are noted", len(row.NodeIds), row.GetSha256(), MaxBlobNodes)
	}
	if slices.Equal(row.GetNodeIds(), have.GetNodeIds()) {
		return stands(0)
	}
	put(tx, TableBlobs, tx.blobs, row)
	return ok()
}

func checkBlobRef(b *raftlogv1.BlobRef) *raftlogv1.Outcome {
	switch sum := b.GetSha256(); {
	case len(sum) != hex.EncodedLen(sha256.Size) || strings.Trim(sum, "0123456789abcdef") != "":
		return refuse(raftlogv1.Code_CODE_INVALID, "blob", "blob %.80q: its name is no SHA-256 in 64 hexadecimal digits", sum)
	case b.GetSize() > MaxBlobBytes:
		return refuse(raftlogv1.Code_CODE_INVALID, "blob", "blob %.12s has %d bytes, at most %d are allowed", sum, b.GetSize(), MaxBlobBytes)
	}
	return nil
}

func (tx *tx) checkBlobNodes(m *raftlogv1.RecordBlob) *raftlogv1.Outcome {
	nodes := m.GetNodeIds()
	if len(nodes) > MaxBlobNodes || !slices.Contains(nodes, m.GetNodeId()) {
		return refuse(raftlogv1.Code_CODE_INVALID, "nodes", "a record of a blob names %d nodes; at most %d are allowed, of which node %q is one", len(nodes), MaxBlobNodes, m.GetNodeId())
	}
	for n, id := range nodes {
		if _, refusal := tx.registered(id); refusal != nil {
			return refusal
		}
		if n > 0 && id <= nodes[n-1] {
			return refuse(raftlogv1.Code_CODE_INVALID, "order", "the nodes of a record of a blob do not ascend")
		}
	}
	return nil
}

// makeRoom forgets blobs that nobody names, the longest idle first, until there is room for
// another one; or says that there is none, and forgets nothing.
func (tx *tx) makeRoom(m *raftlogv1.RecordBlob) *raftlogv1.Outcome {
	gone, fits := tx.roomFor(m.GetBlob().GetSize(), m.GetMaxBytes(), m.GetMaxBlobs(), tx.now())
	if !fits {
		n, bytes := tx.blobTotals()
		return refuse(raftlogv1.Code_CODE_EXHAUSTED, BlobQuota,
			"there is no room for a blob of %d bytes: %d blobs with %d bytes are kept, of which those that no command needs do not suffice; at most %d with %d are kept",
			m.GetBlob().GetSize(), n, bytes, m.GetMaxBlobs(), m.GetMaxBytes())
	}
	for _, sum := range gone {
		remove(tx, TableBlobs, tx.blobs, sum)
	}
	return nil
}

func (t *tables) blobTotals() (n int, bytes uint64) {
	for b := range t.blobs.all() {
		n, bytes = n+1, bytes+b.GetSize()
	}
	return n, bytes
}

// roomFor answers which blobs go so that there is room for one of the size; false when
// there is none all the same.
func (t *tables) roomFor(size, maxBytes uint64, maxBlobs uint32, now int64) (gone []string, fits bool) {
	n, bytes := t.blobTotals()
	full := func() bool { return n >= int(maxBlobs) || bytes+size > maxBytes }
	for b := range t.blobs.by(blobsIdle, "") {
		if !full() || later(b.GetIdleSince(), int64(blobFresh)) > now {
			break
		}
		n, bytes = n-1, bytes-b.GetSize()
		gone = append(gone, b.GetSha256())
	}
	return gone, !full()
}

// expireBlobs forgets what no command has named for long.
func (tx *tx) expireBlobs(m *raftlogv1.ExpireBlobs) *raftlogv1.Outcome {
	if m.GetKeep() < 0 {
		return refuse(raftlogv1.Code_CODE_INVALID, "keep", "blobs are to be kept for %v, which is below zero", time.Duration(m.GetKeep()))
	}
	o := ok()
	for _, b := range collectMax(tx.blobs.by(blobsIdle, ""), int(m.GetMax())) {
		if later(b.GetIdleSince(), m.GetKeep()) > tx.now() {
			break
		}
		remove(tx, TableBlobs, tx.blobs, b.GetSha256())
		o.Count++
	}
	return o
}

// checkBlobs refuses a command that names what is not kept.
func (tx *tx) checkBlobs(m *raftlogv1.SubmitCommand) *raftlogv1.Outcome {
	if len(m.GetBlobs()) > MaxCommandBlobs {
		return refuse(raftlogv1.Code_CODE_INVALID, "blobs", "%d blobs are above the maximum %d", len(m.GetBlobs()), MaxCommandBlobs)
	}
	last := ""
	for _, b := range m.GetBlobs() {
		if refusal := checkBlobRef(b); refusal != nil {
			return refusal
		}
		have, found := tx.blobs.get(b.GetSha256())
		switch {
		case b.GetSha256() <= last:
			return refuse(raftlogv1.Code_CODE_INVALID, "order", "the blobs of a command do not ascend")
		case !found || !tx.blobKept(have):
			return refuse(raftlogv1.Code_CODE_REFUSED, NoBlob,
				"the command names blob %.12s (%d bytes), which the cluster does not keep, or keeps no more: it has to be uploaded first", b.GetSha256(), b.GetSize())
		case have.GetSize() != b.GetSize():
			return refuse(raftlogv1.Code_CODE_INVALID, "blob_size", "the command names blob %.12s with %d bytes, and it has %d", b.GetSha256(), b.GetSize(), have.GetSize())
		}
		last = b.GetSha256()
	}
	return nil
}

// useBlobs has the blobs stay that a new command names; leaveBlobs ends that when it is
// done.
func (tx *tx) useBlobs(c *raftlogv1.Command, refs []*raftlogv1.BlobRef) {
	for _, b := range refs {
		c.Blobs = append(c.Blobs, b.GetSha256())
		have, _ := tx.blobs.get(b.GetSha256()) // checked
		row := clone(have)
		row.Users, row.IdleSince = row.GetUsers()+1, 0
		put(tx, TableBlobs, tx.blobs, row)
	}
}

func (tx *tx) leaveBlobs(c *raftlogv1.Command) {
	for _, sum := range c.GetBlobs() {
		have, found := tx.blobs.get(sum)
		if !found || have.GetUsers() == 0 {
			continue // cannot be: it stays as long as a command like this one names it
		}
		row := clone(have)
		if row.Users--; row.GetUsers() == 0 {
			row.IdleSince = max(tx.now(), 1)
		}
		put(tx, TableBlobs, tx.blobs, row)
	}
}

// blobKept says that some node of the cluster keeps a blob. There is none when those that did
// have left, as all have after a restore.
func (t *tables) blobKept(b *raftlogv1.Blob) bool {
	return slices.ContainsFunc(b.GetNodeIds(), func(id string) bool {
		n, found := t.nodes.get(id)
		return found && !removed(n)
	})
}

// BlobKept says that a blob of the name and size is kept, and may be named by a command.
func (v *View) BlobKept(sha256 string, size uint64) bool {
	b, found := v.t.blobs.get(sha256)
	return found && b.GetSize() == size && v.t.blobKept(b)
}

// Blob returns who keeps the blob with the SHA-256.
func (v *View) Blob(sha256 string) (*raftlogv1.Blob, bool) { return v.t.blobs.get(sha256) }

// Blobs yields the blobs that are kept, by SHA-256.
func (v *View) Blobs() iter.Seq[*raftlogv1.Blob] { return v.t.blobs.all() }

// IdleBlobs yields those that no command names which is not done, the longest idle first.
func (v *View) IdleBlobs() iter.Seq[*raftlogv1.Blob] { return v.t.blobs.by(blobsIdle, "") }

// RoomForBlob says whether a blob of the size could be recorded now, and what there is.
func (v *View) RoomForBlob(size, maxBytes uint64, maxBlobs uint32) (n int, bytes uint64, fits bool) {
	_, fits = v.t.roomFor(size, maxBytes, maxBlobs, v.Now())
	n, bytes = v.t.blobTotals()
	return n, bytes, fits
}
