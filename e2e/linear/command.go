package linear

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// The operations on one command. Clients submit, cancel and read it; a node claims an
// invocation of it for an agent. Of a claim nobody is told: it ends when the program starts,
// which its witness saw.
const (
	Submit = "submit"
	Cancel = "cancel"
	Read   = "read"
	Claim  = "claim"
)

// CommandOp is one call of one client, what it asked and what it was told; or a claim.
type CommandOp struct {
	Client    int
	Command   string
	Kind      string
	Content   string // of a submission, or what a read saw
	Call, End time.Duration

	Answer   Answer   // Conflict: it stands with another content
	Repeated bool     // of a submission: it already stood
	Canceled bool     // a read saw that, or a cancel was told so
	Ended    bool     // a cancel was told that it has ended
	Claims   []string // the invocation of a claim, or those that a read saw claimed; nil: nobody looked
}

// String says what was asked and told.
func (o CommandOp) String() string {
	return fmt.Sprintf("client %d: %s %s %q = %s (repeated %v, canceled %v, claims %v) from %v to %v", o.Client, o.Kind, o.Command, o.Content, o.Answer, o.Repeated, o.Canceled, o.Claims, o.Call, o.End)
}

// commandState is one command, as the specification has it.
type commandState struct {
	content  string // "" while there is none
	canceled bool
	claims   string // of invocations, sorted, with spaces between
}

// commandModel is the specification: a command is absent until a submission, then has
// that content for ever; it is canceled once and stays so; its invocations are claimed once, and
// none after the cancel (I6). A cancel of what has ended does nothing; one whose outcome is
// unknown belongs into a history only where the command was canceled in the end.
//
// A submission that was sent again, by its client after a broken connection or by a node to the
// next leader, may be told that it is a repetition of its own first try; as what is known to
// have done nothing is no operation, a content that only such a submission had explains no
// read.
var commandModel = porcupine.Model{
	Partition:         partition(func(input any) string { return input.(CommandOp).Command }),
	Init:              func() any { return commandState{} },
	Step:              func(state, input, _ any) (bool, any) { return state.(commandState).step(input.(CommandOp)) },
	DescribeOperation: func(input, _ any) string { return input.(CommandOp).String() },
}

// step says whether the answer is right where the state is s, and what it is then.
func (s commandState) step(o CommandOp) (bool, commandState) {
	absent := s.content == ""
	switch o.Kind {
	case Submit:
		switch {
		case absent:
			return o.Answer == OK || o.Answer == Unknown, commandState{content: o.Content}
		case s.content != o.Content:
			return o.Answer == Conflict || o.Answer == Unknown, s
		default:
			return o.Answer == OK && o.Repeated || o.Answer == Unknown, s
		}
	case Cancel:
		next := s
		next.canceled = !absent && (s.canceled || o.Canceled || o.Answer == Unknown)
		told := o.Canceled == next.canceled && (o.Canceled || o.Ended)
		return o.Answer == Unknown || absent && o.Answer == Absent || !absent && o.Answer == OK && told, next
	case Claim:
		all := strings.Fields(s.claims)
		next := s
		next.claims = claimed(append(all, o.Claims...))
		return !absent && !s.canceled && !slices.Contains(all, o.Claims[0]), next
	default: // a read that is unknown is no operation
		if absent {
			return o.Answer == Absent, s
		}
		return o.Answer == OK && o.Content == s.content && o.Canceled == s.canceled && (o.Claims == nil || claimed(o.Claims) == s.claims), s
	}
}

// ClaimedOf are the invocations that a read saw claimed: what has a fence keeps it, as long as no
// attempt follows another one. They are never nil.
func ClaimedOf(row *agentplanev1.Command) []string {
	claimed := []string{}
	for _, i := range row.GetInvocations() {
		if i.GetFence() != 0 {
			claimed = append(claimed, i.GetId())
		}
	}
	return claimed
}

// claimed are the claims of a state.
func claimed(invocations []string) string {
	all := slices.Clone(invocations)
	slices.Sort(all)
	return strings.Join(all, " ")
}

// JudgeCommands judges operations on commands. A claim without an end may have been made at any
// time from its call on. What is illegal is drawn on the page, a path; empty is none.
func JudgeCommands(ops []CommandOp, page string) (porcupine.CheckResult, error) {
	return check(commandModel, ops, func(o CommandOp) span {
		return span{o.Client, o.Call, o.End, o.Answer == Unknown || o.Kind == Claim && o.End == 0}
	}, page)
}
