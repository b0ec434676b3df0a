package dispatch

import (
	"time"
	"unicode/utf8"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// factsState holds the newest facts that are not yet in the log: one report is on its
// way at a time, and one each few seconds.
type factsState struct {
	next    *raftlogv1.ReportFacts
	busy    bool
	sent    time.Time
	planned bool
}

func (s *session) takeFacts(f *agentplanev1.FactsReport) {
	m := &raftlogv1.ReportFacts{AgentId: s.agentID, NodeId: s.d.o.NodeID, SessionEpoch: s.epoch, Hash: f.GetHash(), Version: s.version}
	valid := len(f.GetFacts()) <= fsm.MaxFacts && len(f.GetHash()) <= fsm.MaxValueBytes
	for _, l := range f.GetFacts()[:min(len(f.GetFacts()), fsm.MaxFacts)] {
		valid = valid && l.GetName() != "" && len(l.GetName()) <= fsm.MaxValueBytes && len(l.GetValue()) <= fsm.MaxValueBytes &&
			utf8.ValidString(l.GetName()) && utf8.ValidString(l.GetValue())
		m.Facts = append(m.Facts, &raftlogv1.Label{Name: l.GetName(), Value: l.GetValue()})
	}
	if !valid {
		s.d.count.factsDropped.Add(1)
		s.d.o.Logger.Warn("facts were dropped: too many, too long or malformed", "agent_id", s.agentID, "facts", len(f.GetFacts()),
			"max", fsm.MaxFacts, "max_bytes", fsm.MaxValueBytes)
		return
	}
	s.facts.next = m
	s.proposeFacts()
}

func (s *session) proposeFacts() {
	f := &s.facts
	if f.next == nil || f.busy || f.planned {
		return
	}
	if wait := factsEvery - time.Since(f.sent); !f.sent.IsZero() && wait > 0 {
		f.planned = true
		s.after(wait, func() { f.planned = false; s.proposeFacts() })
		return
	}
	m := f.next
	f.next, f.busy, f.sent = nil, true, time.Now()
	s.propose(s.d.reports, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReportFacts{ReportFacts: m}}, func(o *raftlogv1.Outcome, err error) {
		f.busy = false
		switch {
		case err != nil && f.next == nil:
			f.next = m
		case err == nil && o.GetCode() == raftlogv1.Code_CODE_INVALID:
			s.d.count.factsDropped.Add(1)
			s.d.o.Logger.Warn("facts were refused", "agent_id", s.agentID, "detail", o.GetDetail())
		}
		s.proposeFacts()
	})
}
