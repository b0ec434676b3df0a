package operator

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/forward"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func TestEveryOutcomeCodeHasAStatus(t *testing.T) {
	w := newWorld(t)
	want := map[raftlogv1.Code]codes.Code{
		raftlogv1.Code_CODE_OK:          codes.OK,
		raftlogv1.Code_CODE_NOT_APPLIED: codes.Unavailable,
		raftlogv1.Code_CODE_NOT_FOUND:   codes.NotFound,
		raftlogv1.Code_CODE_CONFLICT:    codes.AlreadyExists,
		raftlogv1.Code_CODE_STALE:       codes.Aborted,
		raftlogv1.Code_CODE_REFUSED:     codes.FailedPrecondition,
		raftlogv1.Code_CODE_EXHAUSTED:   codes.ResourceExhausted,
		raftlogv1.Code_CODE_INVALID:     codes.InvalidArgument,
		raftlogv1.Code_CODE_UNSPECIFIED: codes.Internal,
	}
	for number := range raftlogv1.Code_name {
		code := raftlogv1.Code(number)
		err := w.Commands.outcomeRefusal(&raftlogv1.Outcome{Code: code, Reason: "no_command", Detail: "because", RetryAfterMs: 5})
		if got := status.Code(err); got != want[code] {
			t.Errorf("%v becomes %v, want %v", code, got, want[code])
		}
		if d := agentplanev1.DetailOf(err); err != nil && code > raftlogv1.Code_CODE_NOT_APPLIED {
			if d.GetReason() != "no_command" || d.GetHint() == "" || d.GetRetryAfterMs() != 5 || d.GetAppliedIndex() == 0 || status.Convert(err).Message() != "because" {
				t.Errorf("%v becomes %v with detail %v", code, err, d)
			}
		}
	}
}

func TestErrorsOfProposals(t *testing.T) {
	unknownStatus := agentplanev1.Refusal(codes.Unavailable, &agentplanev1.ErrorDetail{Reason: "x", OutcomeUnknown: true}, "x")
	for _, c := range []struct {
		name    string
		err     error
		code    codes.Code
		reason  string
		unknown bool
	}{
		{"an unknown outcome", fmt.Errorf("propose: %w", consensus.ErrUnknown), codes.Unavailable, "outcome_unknown", true},
		{"an unknown outcome whose cause is a deadline", fmt.Errorf("%w: %w", consensus.ErrUnknown, context.DeadlineExceeded), codes.Unavailable, "outcome_unknown", true},
		{"an unknown outcome that a node said", fmt.Errorf("%w: %w", forward.ErrUnknown, unknownStatus), codes.Unavailable, "outcome_unknown", true},
		{"not the leader", &consensus.NotLeaderError{LeaderID: "n2", LeaderAddress: "a:1"}, codes.Unavailable, "not_leader", false},
		{"no leader", fmt.Errorf("%w that answers: %w", forward.ErrNoLeader, context.DeadlineExceeded), codes.Unavailable, "no_leader", false},
		{"a backlog", consensus.ErrBacklog, codes.ResourceExhausted, "backlog", false},
		{"too large", consensus.ErrTooLarge, codes.InvalidArgument, "too_large", false},
		{"shutting down", consensus.ErrShutdown, codes.Unavailable, "shutting_down", false},
		{"the caller's end before raft had it", context.Canceled, codes.Canceled, "canceled", false},
		{"the deadline before raft had it", context.DeadlineExceeded, codes.Unavailable, "timed_out", false},
		{"anything else leaves it open", errors.New("disk on fire"), codes.Unavailable, "outcome_unknown", true},
		{"what the leader said stands", agentplanev1.Refusal(codes.NotFound, &agentplanev1.ErrorDetail{Reason: "no_command"}, "x"), codes.NotFound, "no_command", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.proposeErr = c.err
			_, err := w.Commands.CancelCommand(t.Context(), &agentplanev1.CancelCommandRequest{Id: "x"})
			wantRefusal(t, err, c.code, c.reason)
			if got := agentplanev1.DetailOf(err).GetOutcomeUnknown(); got != c.unknown {
				t.Fatalf("outcome unknown is %v, want %v", got, c.unknown)
			}
		})
	}
}

func TestErrorsOfReadsNeverLeaveAnOutcomeOpen(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		reason string
	}{
		{"no leader", forward.ErrNoLeader, "no_leader"},
		{"no quorum", consensus.ErrNoQuorum, "no_quorum"},
		{"anything else", errors.New("hm"), "no_quorum"},
		{"not the leader", consensus.ErrNotLeader, "not_leader"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.cfg.Voters = []string{"n1", "n2", "n3"}
			w.readErr = c.err
			for call, f := range map[string]func() error{
				"GetCommand":   func() error { _, err := w.Commands.GetCommand(t.Context(), nil); return err },
				"ListCommands": func() error { _, err := w.Commands.ListCommands(t.Context(), nil); return err },
				"Why":          func() error { _, err := w.Commands.Why(t.Context(), nil); return err },
				"ListAgents":   func() error { _, err := w.Fleet.ListAgents(t.Context(), nil); return err },
				"GetAgent":     func() error { _, err := w.Fleet.GetAgent(t.Context(), nil); return err },
				"Info":         func() error { _, err := w.Cluster.Info(t.Context(), nil); return err },
				"Status":       func() error { _, err := w.Cluster.Status(t.Context(), nil); return err },
				"ListMembers":  func() error { _, err := w.Cluster.ListMembers(t.Context(), nil); return err },
				"ListTokens":   func() error { _, err := w.Tokens.ListTokens(t.Context(), nil); return err },
				"Operators":    func() error { _, err := w.Operators.ListOperators(t.Context(), nil); return err },
			} {
				err := f()
				d := agentplanev1.DetailOf(err)
				if status.Code(err) != codes.Unavailable || d.GetReason() != c.reason || d.GetOutcomeUnknown() {
					t.Errorf("%s answers %v with %v", call, err, d)
				}
				if d.GetReason() != "not_leader" && d.GetHint() != `2 of 3 voters must be up; see "agentctl cluster status --why"` {
					t.Errorf("%s has hint %q", call, d.GetHint())
				}
			}
		})
	}
}

func TestADeposedLeaderSaysThatNothingHappened(t *testing.T) {
	w := newWorld(t)
	w.agent("a1", "web-1", true)
	w.set(func() { w.deposed, w.cfg.Leader = true, "n2" })
	_, err := w.Commands.Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope(t, w.spec("all"))})
	wantRefusal(t, err, codes.Unavailable, "not_leader")
	if d := agentplanev1.DetailOf(err); d.GetOutcomeUnknown() || d.GetLeaderId() != "n2" {
		t.Fatalf("detail %v", d)
	}
	if w.m.View().CommandCount() != 0 {
		t.Fatal("a deposed leader's submission took effect")
	}
}

func TestEveryProposingCallPassesTheOutcomeOn(t *testing.T) {
	w := newWorld(t)
	for call, c := range map[string]struct {
		f      func() error
		code   codes.Code
		reason string
	}{
		"CancelCommand": {func() error {
			_, err := w.Commands.CancelCommand(t.Context(), &agentplanev1.CancelCommandRequest{Id: "x"})
			return err
		}, codes.NotFound, "no_command"},
		"RevokeToken": {func() error {
			_, err := w.Tokens.RevokeToken(t.Context(), &agentplanev1.RevokeTokenRequest{Id: "0199f3a2-7c1e-7b22-9d0a-5a3f6f1c2b3d"})
			return err
		}, codes.NotFound, "no_token"},
		"RevokeOperator": {func() error {
			_, err := w.Operators.RevokeOperator(t.Context(), &agentplanev1.RevokeOperatorRequest{Name: "x"})
			return err
		}, codes.NotFound, "no_operator"},
	} {
		t.Run(call, func(t *testing.T) { wantRefusal(t, c.f(), c.code, c.reason) })
	}
}
