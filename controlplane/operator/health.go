package operator

import (
	"fmt"
	"time"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// SuspectAfter is how long a session may be open before its agent has journalled
	// the epoch.
	SuspectAfter = 9 * time.Second
	// FlapWindow is the time within which the third session of its own doing makes an
	// agent FLAPPING, and for how long after it.
	FlapWindow = 30 * time.Second

	flapSessions = 3
)

// The words of health, as selectors know them.
const (
	Online       = "ONLINE"
	Suspect      = "SUSPECT"
	Reconnecting = "RECONNECTING"
	Down         = "DOWN"
	Flapping     = "FLAPPING"
	Left         = "LEFT"
	Quarantined  = "QUARANTINED"
)

// Health says how an agent is, from its row, its newest session (nil when it was
// never seen) and the cluster's time: one of the words above, a stable reason where
// there is one, and a sentence for people where there is more to say.
func Health(a *raftlogv1.Agent, s *raftlogv1.Session, now int64) (health, reason, detail string) {
	switch a.GetQuarantine() {
	case raftlogv1.Quarantine_QUARANTINE_UNSPECIFIED:
	case raftlogv1.Quarantine_QUARANTINE_CLONE:
		if len(a.GetPublicKey()) == 0 {
			return Quarantined, "clone", "it was readmitted and has to enrol again with a new key and a new token"
		}
		return Quarantined, "clone", a.GetQuarantineDetail()
	case raftlogv1.Quarantine_QUARANTINE_JOURNAL_BEHIND:
		return Quarantined, "journal_behind", a.GetQuarantineDetail()
	default:
		return Quarantined, "blocked", a.GetQuarantineDetail()
	}
	switch s.GetState() {
	case raftlogv1.SessionState_SESSION_STATE_UNSPECIFIED:
		return Down, "never_connected", "it has enrolled and was never seen"
	case raftlogv1.SessionState_SESSION_STATE_RECONNECTING:
		return Reconnecting, s.GetReason(), "it is DOWN unless it comes back by " + stamp(s.GetGraceUntil())
	case raftlogv1.SessionState_SESSION_STATE_DOWN:
		return Down, s.GetReason(), ""
	case raftlogv1.SessionState_SESSION_STATE_LEFT:
		return Left, s.GetReason(), ""
	}
	if first, last, ok := flaps(s); ok && now-last < int64(FlapWindow) {
		return Flapping, "sessions", fmt.Sprintf("%d sessions within %s, and not for its node's sake", flapSessions, time.Duration(last-first).Round(time.Second))
	}
	if s.GetState() == raftlogv1.SessionState_SESSION_STATE_OPEN && now-s.GetChangedAt() > int64(SuspectAfter) {
		return Suspect, "not_ready", "its session is open since " + stamp(s.GetChangedAt()) + ", but it has not journalled it: is its disk hung?"
	}
	return Online, "", ""
}

// flaps answers when the first and the last of the sessions was granted that lie
// close together. Moves for the sake of a node are not among them.
func flaps(s *raftlogv1.Session) (first, last int64, ok bool) {
	g := s.GetFlapsAt()
	if len(g) < flapSessions {
		return 0, 0, false
	}
	first, last = g[len(g)-flapSessions], g[len(g)-1]
	return first, last, last-first <= int64(FlapWindow)
}

// movesAlone says that the agent's health will change by time alone.
func movesAlone(health string, s *raftlogv1.Session) bool {
	return health == Flapping || health == Online && s.GetState() == raftlogv1.SessionState_SESSION_STATE_OPEN
}

// stamp prints a time of the cluster for people.
func stamp(nanos int64) string { return time.Unix(0, nanos).UTC().Format(time.RFC3339) }
