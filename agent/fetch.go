package agent

import (
	"context"
	"fmt"
	"io/fs"
	"time"

	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/agent/journal"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/blob"
)

// fetching is an order whose files are on their way.
type fetching struct {
	order *order
	stop  context.CancelFunc
	err   error // set before it is sent to Run
}

// brings are the blobs that an order needs: its probe needs none.
func (o *order) brings() []blob.Ref {
	if o.deliver.GetPart() == agentplanev1.Part_PART_PROBE {
		return nil
	}
	refs, _ := blob.CheckBrought(o.spec) // looked at when it was delivered
	return refs
}

// nameOf says what of the command a blob is.
func (o *order) nameOf(r blob.Ref) string {
	for _, f := range o.spec.GetFiles() {
		if f.GetContent().GetSha256() == r.Sum {
			return fmt.Sprintf("file %q", f.GetPath())
		}
	}
	return "the standard input"
}

// bring puts into the spec what the command brings along.
func (w *worker) bring(s *execute.Spec, o *order) {
	if w.o.Contents == nil || len(o.brings()) == 0 {
		return
	}
	for _, f := range o.spec.GetFiles() {
		content, _ := blob.FromProto(f.GetContent())
		mode := fs.FileMode(f.GetMode())
		if mode == 0 {
			mode = blob.DefaultMode
		}
		s.Files = append(s.Files, execute.File{From: w.o.Contents.cache.Path(content), Content: content, Path: f.GetPath(), Mode: mode})
	}
	if o.spec.GetStdin() != nil {
		content, _ := blob.FromProto(o.spec.GetStdin())
		s.Stdin, s.Input = w.o.Contents.cache.Path(content), content
	}
}

// fetches says that the order cannot start yet, since not all that it brings along is here:
// it is gotten now, and comes back to Run; or the order is refused.
func (w *worker) fetches(ctx context.Context, o *order) bool {
	refs := o.brings()
	if len(refs) == 0 || w.o.Contents != nil && w.o.Contents.has(refs) {
		return false
	}
	if w.o.Contents == nil {
		w.never(o.intent, journal.Rejected, reasonNoFile, "this agent keeps no files")
		return true
	}
	within, stop := context.WithTimeout(ctx, min(fetchFor, time.Duration(o.intent.NotAfter-w.o.Now())))
	f := &fetching{order: o, stop: stop}
	w.mu.Lock()
	full := len(w.fetching) >= 2*w.o.Slots // nodes claim for free slots only
	if !full {
		w.fetching[o.key()] = f
	}
	w.mu.Unlock()
	if full {
		stop()
		w.never(o.intent, journal.Rejected, reasonNoSlot, "more attempts were claimed than this agent has slots")
		return true
	}
	w.group.Go(func() {
		defer stop()
		f.err = w.o.Contents.fetch(within, o)
		select {
		case w.fetched <- f:
		case <-ctx.Done():
		}
	})
	return true
}

// arrived starts an order whose files have come, or refuses it. One that was canceled
// meanwhile, or came with an earlier session, is not there any more.
func (w *worker) arrived(ctx context.Context, f *fetching) {
	o := f.order
	w.mu.Lock()
	mine := w.fetching[o.key()] == f
	if mine {
		delete(w.fetching, o.key())
	}
	w.mu.Unlock()
	switch {
	case !mine:
	case o.intent.NotAfter <= w.o.Now():
		w.never(o.intent, journal.Rejected, reasonExpired, "what it brings along had not come before "+stamp(o.intent.NotAfter))
	case f.err != nil:
		w.never(o.intent, journal.Rejected, reasonNoFile, "what it brings along was not gotten: "+f.err.Error())
	case w.hasSlot():
		w.start(ctx, o)
	case !w.enqueue(o):
		w.never(o.intent, journal.Rejected, reasonNoSlot, "more attempts were claimed than this agent has slots")
	}
}

// stopFetchLocked ends what is gotten for an order, and gives the order; nil when there is
// none.
func (w *worker) stopFetchLocked(k journal.Key) *order {
	f := w.fetching[k]
	if f == nil {
		return nil
	}
	f.stop()
	delete(w.fetching, k)
	return f.order
}

func (w *worker) stopFetchesLocked() {
	for k := range w.fetching {
		w.stopFetchLocked(k)
	}
}
