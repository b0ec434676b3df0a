package fsm

import (
	"testing"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// wantEvents wants that histories have met, together, what the twin is there for: those that
// never come to what is dangerous compare nothing.
func wantEvents(t *testing.T, met map[string]int) {
	t.Helper()
	for _, want := range []string{
		"submit", "release", "claim", "running", "result", "cancel", "expiry",
		"restart", "restart in mid-work", "wipe in mid-work", "clone", "journal_behind",
	} {
		if met[want] == 0 {
			t.Errorf("no history has met %q: %v", want, met)
		}
	}
}

// event names what of DESIGN sections 8 and 9 a mutation has done; "" when it is not counted.
func event(before, after *View, mut *raftlogv1.Mutation, got *raftlogv1.Outcome) string {
	took := got.GetCode() == raftlogv1.Code_CODE_OK && !got.GetRepeated()
	if m := mut.GetOpenSession(); m != nil {
		a, _ := before.Agent(m.GetAgentId())
		s, had := before.Session(m.GetAgentId())
		b, _ := after.Agent(m.GetAgentId())
		word := map[bool]string{true: "restart", false: "wipe"}[string(s.GetJournal().GetId()) == string(m.GetJournal().GetId())]
		switch {
		case a.GetQuarantine() != b.GetQuarantine():
			return quarantineWord(b.GetQuarantine())
		case !took || !had:
			return ""
		case works(before, a.GetOrdinal()):
			return word + " in mid-work"
		default:
			return word
		}
	}
	switch {
	case !took:
		return ""
	case mut.GetSubmitCommand() != nil:
		return "submit"
	case mut.GetReleaseCommand() != nil, mut.GetAdvanceRollout() != nil:
		return "release"
	case mut.GetClaimAttempt() != nil:
		return "claim"
	case mut.GetReportAttempt().GetState() == running:
		return "running"
	case mut.GetReportAttempt() != nil:
		return "result"
	case mut.GetCancelCommand() != nil:
		return "cancel"
	case mut.GetExpireCommands() != nil:
		return "expiry"
	default:
		return ""
	}
}

func works(v *View, ordinal uint32) bool {
	for range v.Work(ordinal, claimedS) {
		return true
	}
	for range v.Work(ordinal, running) {
		return true
	}
	return false
}
