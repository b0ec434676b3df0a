//go:build agentplane_mutants

package consensus

import (
	"context"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// mutates says that the mutant with the name is asked for (see e2e/doc.go), alone or, with a
// comma between, with another one.
func mutates(name string) bool { return slices.Contains(strings.Split(os.Getenv("MUTANT"), ","), name) }

// The mutant: what raft has been given is called done.
func acknowledgesEarly(batch []*proposal) bool {
	if !mutates("earlyack") {
		return false
	}
	for _, p := range batch {
		for range p.muts {
			p.outcomes = append(p.outcomes, &raftlogv1.Outcome{Code: raftlogv1.Code_CODE_OK})
		}
		close(p.done)
	}
	return true
}

// The mutant: a leader believes itself that it leads.
var asksVoters = !mutates("lonelyread")

// The mutant: any number of proposals may wait.
var boundsQueue = !mutates("queue")

// The mutant: the term of a vote is written before its candidate.
var votesAtOnce = !mutates("tornvote")

// The mutant: a heartbeat changes the term while the main loop relies on it.
var keepsTerm = !mutates("termchange")

// The mutant: confirmation puts hashicorp/raft's own check in place of the read round: replies that
// waited in a socket while the process was stopped count for it.
func (h *Host) confirmation() func(context.Context) (uint64, error) {
	if !mutates("verifyleader") {
		return h.round
	}
	return func(context.Context) (uint64, error) {
		c := h.raft.CommitIndex()
		if err := h.raft.VerifyLeader().Error(); err != nil {
			return 0, h.notLeader()
		}
		return c, nil
	}
}

// The mutant: a pipeline stays open behind the answer after which raft reads none.
var closesPipelines = !mutates("starvation")

// The mutant: an entry that raft refuses is offered again, for a while, whoever leads then.
func (h *Host) offer(entry []byte) raft.ApplyFuture {
	f := h.raft.Apply(entry, enqueueTimeout)
	if !mutates("reoffer") {
		return f
	}
	return &insistent{ApplyFuture: f, again: func() raft.ApplyFuture { return h.raft.Apply(entry, enqueueTimeout) }}
}

type insistent struct {
	raft.ApplyFuture
	again func() raft.ApplyFuture
}

// Error is raft's.
func (f *insistent) Error() error {
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		err := f.ApplyFuture.Error()
		if err != raft.ErrNotLeader && err != raft.ErrLeadershipTransferInProgress {
			return err
		}
		f.ApplyFuture = f.again()
	}
	return f.ApplyFuture.Error()
}
