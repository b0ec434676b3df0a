package operator

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/forward"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// errApplied marks a write that took effect and whose answer could not be made.
var errApplied = errors.New("the outcome could not be read")

// outcomeCodes says which status an outcome becomes. OK is none; NOT_APPLIED has a
// refusal of its own, since nothing happened and another leader is to be asked.
var outcomeCodes = map[raftlogv1.Code]codes.Code{
	raftlogv1.Code_CODE_NOT_FOUND: codes.NotFound,
	raftlogv1.Code_CODE_CONFLICT:  codes.AlreadyExists,
	raftlogv1.Code_CODE_STALE:     codes.Aborted,
	raftlogv1.Code_CODE_REFUSED:   codes.FailedPrecondition,
	raftlogv1.Code_CODE_EXHAUSTED: codes.ResourceExhausted,
	raftlogv1.Code_CODE_INVALID:   codes.InvalidArgument,
}

// hints says for a reason what to type next.
var hints = map[string]string{
	"no_command":      `see "agentctl commands list"`,
	"command_exists":  `leave --id away, or take another one`,
	"expired":         `submit it again with a later end, see --ttl; compare the clocks when it should not have expired`,
	"id_ahead":        `set the clock of the machine that made the id, then run the command again`,
	"id_old":          `leave --id away, or take a new one`,
	"no_agent":        `see "agentctl agents list"`,
	"enrolled_again":  `look at it with "agentctl agents get", then decide`,
	"version_moved":   `look at it again with "agentctl agents get" or "agentctl templates get", then decide`,
	"no_token":        `make one with "agentctl tokens create", or see "agentctl tokens list"`,
	"token_exists":    `leave --id away, or take another one`,
	"token_used":      `make another one with "agentctl tokens create"`,
	"token_expired":   `make another one with "agentctl tokens create"`,
	"token_revoked":   `make another one with "agentctl tokens create"`,
	"too_many_clones": `remove it with "agentctl agents remove", then enrol it again with an empty data directory`,
	"label_forbidden": `leave the label away, or make a token that allows it`,
	"no_operator":     `see "agentctl operators list"`,
	"last_admin":      `make another with "agentctl tokens create --kind operator --role admin" and "agentctl login"`,
	"no_node":         `see "agentctl cluster members"`,
	"removal_moved":   `look at "agentctl cluster members", then run the command again`,
	"node_removed":    `join again with an empty data directory`,
	"name_taken":      `choose another name`,
	"feature_level":   `upgrade the node, then join again`,
	"no_cluster":      `begin with "agentctl cluster init" on one node`,
	"supersede_full":  `wait until some are done, or cancel them: see "agentctl commands list --state active"`,
	"no_schedule":     `see "agentctl schedule list"`,
	"no_template":     `see "agentctl templates list"`,
	"schedule_exists": `look at it with "agentctl schedule get"; to change it, create it again with --version N`,
	"schedule_moved":  `look at it again with "agentctl schedule get", then decide`,
	"past":            `choose a later time; compare the clocks when it should lie ahead`,
	"no_undo":         `give an undo with --undo when you run it`,
	"by_contact":      `see how far it is with "agentctl commands get"`,
	"not_armed":       `see how far it is with "agentctl commands get"; what waits is shown there`,
	"cancel_asked":    `see what becomes of it with "agentctl commands get"`,
	"confirm_done":    `see what became of it with "agentctl commands get"`,
	"pause_moved":     `look at it with "agentctl commands get", then decide`,
	"not_paused":      `see "agentctl commands get"`,
	"not_active":      `see "agentctl commands get"`,
	"is_probe":        `name the command whose wave it probes`,
	"strict":          `give --max-failures 1 or more, or leave --strict away`,
	"no_lock":         `see "agentctl lock list"; make one with "agentctl lock create NAME --limit N"`,
	"lock_exists":     `see "agentctl lock get NAME"; to change it, delete and create it`,
	"lock_held":       `see who holds it with "agentctl lock get NAME"; --force deletes it all the same`,
	"locked":          `see who holds it with "agentctl lock get NAME"`,
	"lease_lost":      `somebody else may hold the place: see "agentctl lock get NAME"`,
	"lease_over":      `take a place with another lease`,
	"other_holder":    `an admin may release it with --force`,
	"no_group":        `name an agent with --agent`,
	"no_blob":         `upload what it brings along first, as "agentctl run --file" and "--stdin" do; a rerun may be too late for that: run it anew with its files`,
	"queue_full":      `wait until the agent has worked off its queue`,
}

// refuse is the error with which a call is refused.
func (s *service) refuse(code codes.Code, reason, format string, args ...any) error {
	return s.refuseWith(code, &agentplanev1.ErrorDetail{Reason: reason, Hint: hints[reason]}, format, args...)
}

// refuseHint is refuse with a hint that is not of the table.
func (s *service) refuseHint(code codes.Code, reason, hint, format string, args ...any) error {
	return s.refuseWith(code, &agentplanev1.ErrorDetail{Reason: reason, Hint: hint}, format, args...)
}

func (s *service) refuseWith(code codes.Code, d *agentplanev1.ErrorDetail, format string, args ...any) error {
	d.AppliedIndex, _ = s.o.Machine.Published()
	return agentplanev1.Refusal(code, d, format, args...)
}

// outcomeRefusal is nil when the outcome is OK.
func (s *service) outcomeRefusal(o *raftlogv1.Outcome) error {
	switch code, known := outcomeCodes[o.GetCode()]; {
	case o.GetCode() == raftlogv1.Code_CODE_OK:
		return nil
	case o.GetCode() == raftlogv1.Code_CODE_NOT_APPLIED:
		return s.notLeader("the leader was deposed before the entry was applied: nothing has changed")
	case !known:
		return s.refuseWith(codes.Internal, &agentplanev1.ErrorDetail{Reason: "unknown_code", OutcomeUnknown: true},
			"the outcome has code %d, which this build does not know", o.GetCode())
	default:
		return s.refuseWith(code, &agentplanev1.ErrorDetail{
			Reason: o.GetReason(), Hint: hints[o.GetReason()], RetryAfterMs: o.GetRetryAfterMs(),
		}, "%s", o.GetDetail())
	}
}

// notLeader says that nothing happened and who is to be asked.
func (s *service) notLeader(format string, args ...any) error {
	d := &agentplanev1.ErrorDetail{Reason: forward.ReasonNotLeader, Hint: "run the command again"}
	if leader := s.o.Raft.Configuration().Leader; leader != "" && leader != s.o.NodeID {
		n, _ := s.o.Machine.View().Node(leader)
		d.LeaderId, d.LeaderAddress = leader, n.GetAddress()
	}
	return s.refuseWith(codes.Unavailable, d, format, args...)
}

// proposeRefusal turns the error of a write into a status. An error that is not
// known to mean that nothing happened leaves the outcome unknown.
func (s *service) proposeRefusal(err error) error {
	unknown := &agentplanev1.ErrorDetail{
		Reason: "outcome_unknown", OutcomeUnknown: true,
		Hint: "it may or may not have taken effect: ask for it by its id, or repeat it with the same --id",
	}
	switch {
	case errors.Is(err, consensus.ErrUnknown), errors.Is(err, errApplied):
		return s.refuseWith(codes.Unavailable, unknown, "%v", err)
	case agentplanev1.DetailOf(err) != nil:
		return err // the leader said it
	}
	if refusal := s.wayRefusal(err); refusal != nil {
		return refusal
	}
	switch {
	case errors.Is(err, consensus.ErrBacklog):
		return s.refuseWith(codes.ResourceExhausted, &agentplanev1.ErrorDetail{
			Reason: "backlog", RetryAfterMs: 500, Hint: "run the command again in a moment",
		}, "%v", err)
	case errors.Is(err, consensus.ErrTooLarge):
		return s.refuse(codes.InvalidArgument, "too_large", "%v", err)
	case errors.Is(err, consensus.ErrConfigurationChanged):
		return s.refuseHint(codes.Aborted, "configuration_changed", `look at "agentctl cluster members" again, then decide`, "%v", err)
	case errors.Is(err, consensus.ErrNoSuccessor):
		return s.refuseHint(codes.FailedPrecondition, "no_successor", `see "agentctl cluster status"`, "%v", err)
	default:
		return s.refuseWith(codes.Unavailable, unknown, "%v", err)
	}
}

// readRefusal turns the error of a read into a status. A read does nothing ever.
func (s *service) readRefusal(err error) error {
	if agentplanev1.DetailOf(err) != nil {
		return err
	}
	if refusal := s.wayRefusal(err); refusal != nil {
		return refusal
	}
	return s.refuseHint(codes.Unavailable, "no_quorum", s.quorumHint(), "%v", err)
}

// wayRefusal names what is wrong with the way to the leader; nil when it is
// something else. Nothing has happened in each of its cases.
func (s *service) wayRefusal(err error) error {
	var elsewhere *consensus.NotLeaderError
	switch {
	case errors.Is(err, forward.ErrNoLeader):
		return s.refuseHint(codes.Unavailable, "no_leader", s.quorumHint(), "%v", err)
	case errors.As(err, &elsewhere):
		return s.refuseWith(codes.Unavailable, &agentplanev1.ErrorDetail{
			Reason: forward.ReasonNotLeader, LeaderId: string(elsewhere.LeaderID), LeaderAddress: string(elsewhere.LeaderAddress),
		}, "%v", err)
	case errors.Is(err, consensus.ErrNotLeader):
		return s.notLeader("%v", err)
	case errors.Is(err, consensus.ErrShutdown):
		return s.refuseHint(codes.Unavailable, "shutting_down", "run the command again on another node", "%v", err)
	case errors.Is(err, consensus.ErrNoQuorum):
		return s.refuseHint(codes.Unavailable, "no_quorum", s.quorumHint(), "%v", err)
	case errors.Is(err, context.Canceled):
		return s.refuse(codes.Canceled, "canceled", "%v", err)
	case errors.Is(err, context.DeadlineExceeded):
		return s.refuseHint(codes.Unavailable, "timed_out", s.quorumHint(), "%v", err)
	}
	return nil
}

// quorumHint says how many voters must be up.
func (s *service) quorumHint() string {
	n := len(s.o.Raft.Configuration().Voters)
	if n < 2 {
		return `a majority of the voters must be up; see "agentctl cluster status --why"`
	}
	return fmt.Sprintf(`%d of %d voters must be up; see "agentctl cluster status --why"`, quorum(n), n)
}

func quorum(voters int) int { return voters/2 + 1 }
