package sim

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func opens(agent, node string) *raftlogv1.Mutation {
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_OpenSession{OpenSession: &raftlogv1.OpenSession{AgentId: agent, NodeId: node}}}
}

func readies(agent, node string, epoch uint64) *raftlogv1.Mutation {
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReadySession{ReadySession: &raftlogv1.ReadySession{AgentId: agent, NodeId: node, SessionEpoch: epoch}}}
}

func ends(agent, node string, epoch uint64) *raftlogv1.Mutation {
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EndSession{EndSession: &raftlogv1.EndSession{AgentId: agent, NodeId: node, SessionEpoch: epoch}}}
}

func reports(agent, node string, epoch uint64) *raftlogv1.Mutation {
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReportAttempt{ReportAttempt: &raftlogv1.ReportAttempt{AgentId: agent, NodeId: node, SessionEpoch: epoch}}}
}

func claims(agent, node string, epoch uint64) *raftlogv1.Mutation {
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ClaimAttempt{ClaimAttempt: &raftlogv1.ClaimAttempt{InvocationId: "c.1", Attempt: 1, AgentId: agent, NodeId: node, SessionEpoch: epoch}}}
}

func cancels() *raftlogv1.Mutation {
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CancelCommand{CancelCommand: &raftlogv1.CancelCommand{CommandId: "c"}}}
}

func submits(digest string) *raftlogv1.Mutation {
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_SubmitCommand{SubmitCommand: &raftlogv1.SubmitCommand{Id: "c", Digest: []byte(digest)}}}
}

func TestAuditorJudges(t *testing.T) {
	ok := func(number uint64) *raftlogv1.Outcome {
		return &raftlogv1.Outcome{Code: raftlogv1.Code_CODE_OK, Number: number}
	}
	again := func(number uint64) *raftlogv1.Outcome {
		return &raftlogv1.Outcome{Code: raftlogv1.Code_CODE_OK, Number: number, Repeated: true}
	}
	stale := &raftlogv1.Outcome{Code: raftlogv1.Code_CODE_STALE}
	type step struct {
		m *raftlogv1.Mutation
		o *raftlogv1.Outcome
	}
	for name, test := range map[string]struct {
		steps []step
		want  string // the beginning of the one complaint; empty is none
	}{
		"a session and its work":              {[]step{{opens("a", "n"), ok(5)}, {opens("a", "n"), again(5)}, {readies("a", "n", 5), ok(5)}, {claims("a", "n", 5), ok(7)}, {claims("a", "n", 5), again(7)}, {reports("a", "n", 5), ok(0)}, {cancels(), ok(0)}, {ends("a", "", 5), ok(0)}}, ""},
		"an older session is refused":         {[]step{{opens("a", "n"), ok(5)}, {opens("a", "o"), ok(6)}, {claims("a", "n", 5), stale}, {ends("a", "n", 5), stale}}, ""},
		"an older session claims":             {[]step{{opens("a", "n"), ok(5)}, {opens("a", "n"), ok(6)}, {claims("a", "n", 5), ok(7)}}, "I5"},
		"an older session is ready":           {[]step{{opens("a", "n"), ok(5)}, {opens("a", "n"), ok(6)}, {readies("a", "n", 5), ok(6)}}, "I5"},
		"an older session reports":            {[]step{{opens("a", "n"), ok(5)}, {opens("a", "n"), ok(6)}, {reports("a", "n", 5), ok(0)}}, "I5"},
		"an older session ends a newer":       {[]step{{opens("a", "n"), ok(5)}, {opens("a", "n"), ok(6)}, {ends("a", "n", 5), ok(0)}}, "I5"},
		"another node speaks for a session":   {[]step{{opens("a", "n"), ok(5)}, {reports("a", "o", 5), ok(0)}}, "I5"},
		"epochs go back":                      {[]step{{opens("a", "n"), ok(5)}, {opens("a", "o"), ok(4)}}, "I5"},
		"one epoch is granted twice":          {[]step{{opens("a", "n"), ok(5)}, {opens("a", "o"), ok(5)}}, "I5"},
		"an attempt is claimed twice":         {[]step{{opens("a", "n"), ok(5)}, {claims("a", "n", 5), ok(7)}, {opens("a", "o"), ok(8)}, {claims("a", "o", 8), ok(9)}}, "I2"},
		"an attempt is claimed when canceled": {[]step{{opens("a", "n"), ok(5)}, {cancels(), ok(0)}, {claims("a", "n", 5), ok(7)}}, "I6"},
		"two contents are taken":              {[]step{{submits("x"), ok(0)}, {submits("x"), again(0)}, {submits("y"), again(0)}}, "I8"},
		"the second content is refused":       {[]step{{submits("x"), ok(0)}, {submits("y"), &raftlogv1.Outcome{Code: raftlogv1.Code_CODE_CONFLICT}}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAuditor()
			for _, s := range test.steps {
				a.entry(1, &raftlogv1.Entry{LeaderEpoch: 1, Mutations: []*raftlogv1.Mutation{s.m}}, []*raftlogv1.Outcome{s.o})
			}
			if test.want == "" && len(a.wrong) > 0 || test.want != "" && (len(a.wrong) != 1 || !strings.HasPrefix(a.wrong[0], test.want+":")) {
				t.Errorf("the auditor says %q, want one complaint of %q", a.wrong, test.want)
			}
		})
	}
	a := newAuditor()
	late := &raftlogv1.Entry{LeaderEpoch: 1, Mutations: []*raftlogv1.Mutation{cancels()}}
	a.entry(2, late, []*raftlogv1.Outcome{{Code: raftlogv1.Code_CODE_NOT_APPLIED}})
	if len(a.wrong) > 0 {
		t.Errorf("the auditor says %q of a deposed leader who was refused", a.wrong)
	}
	if a.entry(2, late, []*raftlogv1.Outcome{ok(0)}); len(a.wrong) != 1 {
		t.Errorf("the auditor says %q of a deposed leader who was obeyed", a.wrong)
	}
}

// TestBookKnowsWhatCommitted shows that the later of two entries counts, in whichever
// order nodes write them, and that another state than the log makes is noticed.
func TestBookKnowsWhatCommitted(t *testing.T) {
	entry := func(term uint64, m *raftlogv1.Mutation) *raft.Log {
		data, err := raftlogv1.Seal(&raftlogv1.Entry{Format: raftlogv1.EntryFormat, Now: int64(term), Mutations: []*raftlogv1.Mutation{m}})
		if err != nil {
			t.Fatal(err)
		}
		return &raft.Log{Index: 1, Term: term, Type: raft.LogCommand, Data: data}
	}
	office := func(node string, term uint64) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_TakeOffice{TakeOffice: &raftlogv1.TakeOffice{NodeId: node, Term: term}}}
	}
	nothing := func(*fsm.View, *raftlogv1.Entry, []*raftlogv1.Outcome, time.Time) []string { return nil }
	older, newer := entry(2, office("a", 2)), entry(3, office("b", 3))
	for _, order := range [][]*raft.Log{{older, newer}, {newer, older}} {
		b, m := newBook(), fsm.Raft{Machine: fsm.New(fsm.Options{})}
		for _, l := range order {
			b.wrote([]*raft.Log{l})
		}
		m.Apply(newer)
		b.sample("n", m.View())
		if wrong := b.audit(1, nothing); len(wrong) > 0 {
			t.Errorf("the audit says %q of what is right", wrong)
		}
		if wrong := b.audit(2, nothing); len(wrong) != 1 || !strings.HasPrefix(wrong[0], "I1:") {
			t.Errorf("the audit says %q when an entry is missing", wrong)
		}
		other := fsm.Raft{Machine: fsm.New(fsm.Options{})}
		other.Apply(older)
		b.sample("o", other.View())
		if wrong := b.audit(1, nothing); len(wrong) != 2 || !strings.HasPrefix(wrong[0], "I9:") {
			t.Errorf("the audit says %q when a node has another state", wrong)
		}
	}
}
