package forward

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/agentplane/agentplane/controlplane/consensus"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// way is a script of answers: one for each try.
type way struct {
	leader  func(try int) string
	answers []answer
	tries   int
	asked   []string
}

type answer struct {
	code raftlogv1.Code
	err  error
}

func (w *way) next(who string) ([]*raftlogv1.Outcome, error) {
	w.asked = append(w.asked, who)
	a := w.answers[min(w.tries, len(w.answers)-1)]
	w.tries++
	if a.err != nil {
		return nil, a.err
	}
	return []*raftlogv1.Outcome{{Code: a.code}}, nil
}

func (w *way) Propose(context.Context, ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	return w.next("me")
}

func (w *way) ReadIndex(context.Context) (uint64, error) {
	_, err := w.next("me")
	return 7, err
}

func (w *way) Leader() (consensus.ServerID, consensus.ServerAddress, bool) {
	id := w.leader(w.tries)
	return consensus.ServerID(id), "", id != ""
}

func (w *way) InOffice() (consensus.Office, bool) {
	return consensus.Office{}, w.leader(w.tries) == "me"
}

func (w *way) LeaderChanges() (<-chan struct{}, func()) { return nil, func() {} }

type remote struct{ *way }

func (r remote) Propose(_ context.Context, id string, _ []*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	return r.next(id)
}

func (r remote) ReadIndex(_ context.Context, id string) (uint64, error) {
	_, err := r.next(id)
	return 9, err
}

func led(by string) func(int) string { return func(int) string { return by } }

var (
	applied   = answer{code: raftlogv1.Code_CODE_OK}
	deposed   = answer{code: raftlogv1.Code_CODE_NOT_APPLIED}
	broken    = answer{err: status.Error(codes.Unavailable, "connection reset")}
	elsewhere = answer{err: agentplanev1.Refusal(codes.Unavailable, &agentplanev1.ErrorDetail{Reason: ReasonNotLeader}, "not here")}
	marked    = answer{err: agentplanev1.Refusal(codes.Unavailable, &agentplanev1.ErrorDetail{OutcomeUnknown: true}, "lost leadership")}
	full      = answer{err: agentplanev1.Refusal(codes.ResourceExhausted, &agentplanev1.ErrorDetail{Reason: "backlog"}, "full")}
	notLeader = answer{err: &consensus.NotLeaderError{}}
	unsure    = answer{err: consensus.ErrUnknown}
	backlog   = answer{err: consensus.ErrBacklog}
)

func TestPropose(t *testing.T) {
	for _, c := range []struct {
		name    string
		leader  func(int) string
		answers []answer
		tries   int // 0: until the hold is over
		want    error
	}{
		{"the leader proposes itself", led("me"), []answer{applied}, 1, nil},
		{"a follower asks the leader", led("b"), []answer{applied}, 1, nil},
		{"what was not applied is proposed again", led("b"), []answer{deposed, deposed, applied}, 3, nil},
		{"a node that no longer leads is asked no more than it must", led("b"), []answer{elsewhere, applied}, 2, nil},
		{"an unknown outcome is repeated and may become known", led("b"), []answer{broken, applied}, 2, nil},
		{"an unknown outcome stays unknown whatever else is refused", led("b"), []answer{broken, full}, 0, ErrUnknown},
		{"an unknown outcome here stays unknown", led("me"), []answer{unsure, notLeader}, 0, ErrUnknown},
		{"the mark of another node counts", led("b"), []answer{marked, elsewhere}, 0, ErrUnknown},
		{"nothing happened and nobody leads", led("me"), []answer{notLeader}, 0, ErrNoLeader},
		{"nobody leads", led(""), []answer{applied}, 0, ErrNoLeader},
		{"a backlog is answered at once", led("me"), []answer{backlog}, 1, consensus.ErrBacklog},
		{"another node's backlog too", led("b"), []answer{full}, 1, full.err},
		{
			"a leader that comes back within the hold is found", func(try int) string { return map[bool]string{true: "b", false: "me"}[try < 1] },
			[]answer{elsewhere, applied},
			2, nil,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &way{leader: c.leader, answers: c.answers}
				f := New(Options{NodeID: "me", Local: w, Remote: remote{w}})
				start := time.Now()
				outcomes, err := f.Propose(context.Background(), &raftlogv1.Mutation{})
				if !errors.Is(err, c.want) || (c.want == nil && err != nil) {
					t.Errorf("Propose = %v, want %v", err, c.want)
				}
				if err == nil && outcomes[0].GetCode() != raftlogv1.Code_CODE_OK {
					t.Errorf("outcome is %v", outcomes[0])
				}
				if c.tries > 0 && w.tries != c.tries {
					t.Errorf("tried %d times (%v), want %d", w.tries, w.asked, c.tries)
				}
				if took := time.Since(start); took > 7*time.Second || (c.tries == 0 && took < 7*time.Second) {
					t.Errorf("took %v; the hold is 7s", took)
				}
			})
		})
	}
}

// A leader that has been gone for longer than elections take is not waited for as long by
// every call.
func TestCallIsHeldUntilHoldAfterALeaderWasHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			name  string
			heard time.Duration // how long ago; negative is not since the start
			want  time.Duration
		}{
			{"not since the start", -1, 7 * time.Second},
			{"just now", 0, 7 * time.Second},
			{"three seconds ago", 3 * time.Second, 4 * time.Second},
			{"an hour ago", time.Hour, time.Second},
		} {
			w, began := &way{leader: led("")}, time.Now()
			f := New(Options{NodeID: "me", Local: w, Remote: remote{w}, LeaderSeen: func() time.Time {
				if c.heard < 0 {
					return time.Time{}
				}
				return began.Add(-c.heard)
			}})
			if _, err := f.Propose(context.Background(), &raftlogv1.Mutation{}); !errors.Is(err, ErrNoLeader) || time.Since(began) != c.want {
				t.Errorf("%s: Propose = %v after %v, want ErrNoLeader after %v", c.name, err, time.Since(began), c.want)
			}
		}
	})
}

func TestProposeEndsWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &way{leader: led("")}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := New(Options{NodeID: "me", Local: w, Remote: remote{w}}).Propose(ctx, &raftlogv1.Mutation{})
		if !errors.Is(err, ErrNoLeader) || time.Since(start) != time.Second {
			t.Errorf("Propose = %v after %v, want ErrNoLeader after 1s", err, time.Since(start))
		}
	})
}

func TestReadTriesAgainWhateverHappened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &way{leader: led("b"), answers: []answer{broken, full, marked, applied}}
		index, err := New(Options{NodeID: "me", Local: w, Remote: remote{w}}).Read(context.Background())
		if err != nil || index != 9 || w.tries != 4 {
			t.Errorf("Read = %d, %v after %d tries, want 9 after 4", index, err, w.tries)
		}
	})
}

func TestCallGoesToTheLeaderOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &way{leader: func(try int) string { return []string{"b", "me"}[try] }}
		var asked []string
		err := New(Options{NodeID: "me", Local: w, Remote: remote{w}}).Call(context.Background(),
			func(context.Context) error {
				asked = append(asked, "me")
				return nil
			},
			func(_ context.Context, leader string) error {
				asked = append(asked, leader)
				w.tries++
				return elsewhere.err
			})
		if err != nil || len(asked) != 2 || asked[0] != "b" || asked[1] != "me" {
			t.Errorf("Call = %v, asked %v, want b then me", err, asked)
		}
	})
}
