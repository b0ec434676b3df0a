//go:build agentplane_mutant_earlyack

package consensus

import raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"

// The mutant: what raft has been given is called done.
func acknowledgesEarly(batch []*proposal) bool {
	for _, p := range batch {
		for range p.muts {
			p.outcomes = append(p.outcomes, &raftlogv1.Outcome{Code: raftlogv1.Code_CODE_OK})
		}
		close(p.done)
	}
	return true
}
