package sim

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/agentplane/agentplane/controlplane"
	"github.com/agentplane/agentplane/controlplane/consensus/consensustest"
	"github.com/agentplane/agentplane/controlplane/peer"
	"github.com/agentplane/agentplane/controlplane/pki"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// nodeImage is what lay on the disks of a node that did not run.
type nodeImage struct {
	of     string // the node's id
	dir    string
	disk   *consensustest.MemDisk
	last   uint64 // the last entry
	starts uint64
}

// putBackNode takes an image of a node's disk, lets the node go on for a further life, and in the
// end puts the image back, if all others have on their disks that the node had more: then nobody may
// let it in, however often it is started, and an operator has it begin anew. Where one does not know,
// a vote of the node may lose what was acknowledged, since a disk that was put back is one that is lost.
//
// From then on no node is replaced and no other one put back, until it has begun anew in the healed
// world: that would be a second loss.
func (w *World) putBackNode(f Fault) ending {
	n := w.nodeOf(f.Who)
	w.mu.Lock()
	busy := w.imaged != nil
	for _, other := range w.nodes {
		busy = busy || other.leaving || other.joining
	}
	if !busy {
		w.imaged = n
	}
	w.mu.Unlock()
	if busy {
		return nil
	}
	n.kill(false)
	image, err := n.image()
	w.must(err)
	w.must(n.start())
	if image.disk == nil {
		w.mu.Lock()
		w.imaged = nil
		w.mu.Unlock()
		return nil
	}
	return func() bool {
		for end := time.Now().Add(5 * time.Second); !n.isKnown(image) && time.Now().Before(end); {
			time.Sleep(200 * time.Millisecond)
		}
		n.kill(false)
		behind := n.putBack(image)
		w.must(n.start())
		return behind
	}
}

// image is what lies on the disks of a dead node; nothing when somebody has started it.
func (n *node) image() (i nodeImage, err error) {
	w := n.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if n.life != nil {
		return i, nil
	}
	i = nodeImage{of: n.id, dir: filepath.Join(w.dir, fmt.Sprintf("%s.%d.image", n.name, n.lives)), disk: n.disk.Image(false), starts: n.starts}
	stores := i.disk.Disk()
	if i.last, err = stores.Log.LastIndex(); err != nil {
		return i, err
	}
	snapshots, err := stores.Snapshots.List()
	for _, s := range snapshots {
		i.last = max(i.last, s.Index)
	}
	if err != nil {
		return i, err
	}
	return i, copyDir(n.dir, i.dir)
}

// isKnown says that all other nodes have on their disks that the node has had more than what is
// in the image: they will not take that for its disk.
func (n *node) isKnown(i nodeImage) bool {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.isKnownLocked(i)
}

func (n *node) isKnownLocked(i nodeImage) bool {
	for _, other := range n.w.nodes {
		if other == n {
			continue
		}
		boot, err := pki.LoadBootState(filepath.Join(other.dir, "boot.state"))
		if err != nil {
			return false
		}
		if seen := boot.Peers[i.of]; seen.Index <= i.last && (seen.Starts <= i.starts || seen.StartID == "") {
			return false
		}
	}
	return n.id == i.of
}

// putBack gives a dead node an older disk, if all will know it for that.
func (n *node) putBack(i nodeImage) bool {
	w := n.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if n.life != nil || !n.isKnownLocked(i) {
		w.imaged = nil
		return false
	}
	n.dir, n.disk, n.starts, n.kept, n.behind, n.refused = i.dir, i.disk, i.starts, storedOutput{}, true, false
	w.trace.Note(n.name, "is put back to entry %d", i.last)
	return true
}

// refusesOlderLocked says that a node ends since its disk was put back, and must. Whoever is asked
// knows that: nobody may take so much as a question of it, which is what the state refuses.
func (n *node) refusesOlderLocked(err error) bool {
	if !n.behind || !errors.Is(err, controlplane.ErrPutBack) {
		return false
	}
	if agentplanev1.DetailOf(err).GetReason() != peer.ReasonPutBack {
		n.w.redLocked("%s was let in with a disk that was put back: %v", n.name, err)
	}
	n.refused, n.leaving = true, true // an operator will remove it
	return true
}

// unlike says that a node has an older disk, or has not begun anew since.
func (w *World) unlike() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch n := w.imaged; {
	case n == nil || !n.behind && !n.joining:
		return ""
	case n.behind && !n.refused:
		return n.name + " goes on with a disk that was put back, though every other node has seen more of it"
	default:
		return n.name + " has not begun anew since its disk was put back"
	}
}
