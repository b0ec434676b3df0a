package operator

import (
	"slices"
	"testing"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/selector"
)

func TestHealth(t *testing.T) {
	const now = int64(10 * time.Hour)
	ago := func(d time.Duration) int64 { return now - int64(d) }
	session := func(state raftlogv1.SessionState, changed int64, granted ...int64) *raftlogv1.Session {
		return &raftlogv1.Session{State: state, ChangedAt: changed, FlapsAt: granted, Reason: "r"}
	}
	key := []byte("key")
	const (
		opened  = raftlogv1.SessionState_SESSION_STATE_OPEN
		ready   = raftlogv1.SessionState_SESSION_STATE_READY
		waiting = raftlogv1.SessionState_SESSION_STATE_RECONNECTING
	)
	for _, c := range []struct {
		name    string
		agent   *raftlogv1.Agent
		session *raftlogv1.Session
		health  string
		reason  string
	}{
		{"never seen", &raftlogv1.Agent{}, nil, Down, "never_connected"},
		{"ready", &raftlogv1.Agent{}, session(ready, ago(time.Hour), ago(time.Hour)), Online, ""},
		{"just opened", &raftlogv1.Agent{}, session(opened, ago(time.Second), ago(time.Second)), Online, ""},
		{"opened long ago and not journalled", &raftlogv1.Agent{}, session(opened, ago(time.Minute), ago(time.Minute)), Suspect, "not_ready"},
		{"stream gone", &raftlogv1.Agent{}, session(waiting, ago(time.Second)), Reconnecting, "r"},
		{"grace over", &raftlogv1.Agent{}, session(raftlogv1.SessionState_SESSION_STATE_DOWN, ago(time.Second)), Down, "r"},
		{"said goodbye", &raftlogv1.Agent{}, session(raftlogv1.SessionState_SESSION_STATE_LEFT, ago(time.Second)), Left, "r"},
		{"three sessions in a row", &raftlogv1.Agent{}, session(ready, ago(time.Second), ago(20*time.Second), ago(10*time.Second), ago(time.Second)), Flapping, "sessions"},
		{"three sessions in a row, and quiet since", &raftlogv1.Agent{}, session(ready, ago(time.Minute), ago(80*time.Second), ago(70*time.Second), ago(time.Minute)), Online, ""},
		{"three sessions over an hour", &raftlogv1.Agent{}, session(ready, ago(time.Second), ago(time.Hour), ago(time.Minute), ago(time.Second)), Online, ""},
		{"three sessions in a row for the sake of nodes", &raftlogv1.Agent{}, &raftlogv1.Session{State: ready, GrantedAt: []int64{ago(20 * time.Second), ago(10 * time.Second), ago(time.Second)}, FlapsAt: []int64{ago(time.Hour)}}, Online, ""},
		{"reconnecting is said before flapping", &raftlogv1.Agent{}, session(waiting, ago(time.Second), ago(20*time.Second), ago(10*time.Second), ago(time.Second)), Reconnecting, "r"},
		{"a clone, whatever its session", &raftlogv1.Agent{PublicKey: key, Quarantine: raftlogv1.Quarantine_QUARANTINE_CLONE}, session(ready, 0), Quarantined, "clone"},
		{"a readmitted clone without a key", &raftlogv1.Agent{Quarantine: raftlogv1.Quarantine_QUARANTINE_CLONE}, nil, Quarantined, "clone"},
		{"journal behind", &raftlogv1.Agent{PublicKey: key, Quarantine: raftlogv1.Quarantine_QUARANTINE_JOURNAL_BEHIND}, nil, Quarantined, "journal_behind"},
		{"blocked", &raftlogv1.Agent{PublicKey: key, Quarantine: raftlogv1.Quarantine_QUARANTINE_BLOCKED}, nil, Quarantined, "blocked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			health, reason, _ := Health(c.agent, c.session, now)
			if health != c.health || reason != c.reason {
				t.Fatalf("Health = %s(%s), want %s(%s)", health, reason, c.health, c.reason)
			}
			if !slices.Contains(selector.HealthStates(), health) {
				t.Fatalf("%s is no word of the selector", health)
			}
		})
	}
}

func TestStatesOfTheAPIAreThoseOnDisk(t *testing.T) {
	for _, pair := range []struct {
		name      string
		api, disk map[int32]string
	}{
		{"attempt", agentplanev1.AttemptState_name, raftlogv1.AttemptState_name},
		{"command", agentplanev1.CommandState_name, raftlogv1.CommandState_name},
		{"delivery", agentplanev1.Delivery_name, raftlogv1.Delivery_name},
		{"token kind", agentplanev1.TokenKind_name, raftlogv1.TokenKind_name},
	} {
		for n, name := range pair.disk {
			if pair.api[n] != name {
				t.Errorf("%s %d is %q on disk and %q in the API", pair.name, n, name, pair.api[n])
			}
		}
		if len(pair.api) != len(pair.disk) {
			t.Errorf("%s: %d values in the API, %d on disk", pair.name, len(pair.api), len(pair.disk))
		}
	}
}
