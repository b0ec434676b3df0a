package consensus

import (
	"sync"

	"github.com/hashicorp/raft"
)

// AppendEntriesPipeline opens raft's pipeline to a follower, which ends by itself when
// an answer ends it.
func (g *gate) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	inner, err := g.Transport.AppendEntriesPipeline(id, target)
	if err != nil || !closesPipelines {
		return inner, err
	}
	p := &pipeline{AppendPipeline: inner, answers: make(chan raft.AppendFuture), closed: make(chan struct{})}
	go p.pass()
	return p, nil
}

// pipeline closes itself behind an answer that makes raft stop reading answers.
//
// raft (v1.7.3; raft#611 and #612, open) reads the answers of a pipeline on one
// goroutine and sends on another. The reader ends with the first answer that is no
// success: a failed append, a later term, a connection that timed out. Nobody takes the
// next answer then, the transport waits with it, and a sender that is in AppendEntries
// at that moment waits for the transport, for ever: it would close the pipeline, but
// only when it has returned. Its follower goes on hearing heartbeats, so that it never
// campaigns, and is never sent another entry. A follower that fails one append, or is
// paused for longer than the transport's timeout, is enough. (Our simulation found it.)
//
// The goroutine ends when raft closes the pipeline, or behind such an answer.
type pipeline struct {
	raft.AppendPipeline
	answers chan raft.AppendFuture // to raft
	closed  chan struct{}
	once    sync.Once
}

func (p *pipeline) pass() {
	for {
		select {
		case f := <-p.AppendPipeline.Consumer():
			last := endsPipeline(f)
			select {
			case p.answers <- f:
			case <-p.closed:
				return
			}
			if last {
				_ = p.AppendPipeline.Close() // who sends is let go
				return
			}
		case <-p.closed:
			return
		}
	}
}

// endsPipeline says that raft reads no answer behind this one.
func endsPipeline(f raft.AppendFuture) bool {
	return !f.Response().Success || f.Response().Term > f.Request().Term
}

// Consumer is where raft reads answers.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.answers }

// Close is raft's; it may be called again.
func (p *pipeline) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.AppendPipeline.Close()
}
