package client

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// Submission is what the cluster answered to a command.
type Submission struct {
	Command *agentplanev1.Command
	// Repeated says that the command stood already, with the same content.
	Repeated bool
	// Notes say what of its rollout does not come out as it was asked for.
	Notes []string
}

// Submit hands the command to the cluster and returns when a majority of the nodes holds it
// on disk. What it brings along is uploaded when the cluster says that it lacks it, and
// would take the command otherwise. It sets cmd.ID when it is empty. After an *Error with OutcomeUnknown the
// same Command may be submitted again: it runs once. Those who submit many a second use
// a Submitter.
func (c *Client) Submit(ctx context.Context, cmd *Command) (*Submission, error) {
	anew := cmd.ID == ""
	for try := 1; ; try++ {
		s, err := c.submit(ctx, cmd)
		if err == nil || AsError(err).Reason != reasonNoBlob || len(cmd.contents()) == 0 || try > uploadRounds {
			return s, err
		}
		if err := c.upload(ctx, cmd); err != nil {
			return nil, err
		}
		if anew {
			cmd.ID = "" // nothing has happened; its times count from now on
		}
	}
}

// reasonNoBlob says that the command names what the cluster does not keep: it may have been
// thrown away since it was uploaded.
const reasonNoBlob = "no_blob"

func (c *Client) submit(ctx context.Context, cmd *Command) (*Submission, error) {
	info, envelope, err := c.envelope(ctx, cmd)
	if err != nil {
		return nil, err
	}
	var r interface {
		GetCommand() *agentplanev1.Command
		GetRepeated() bool
		GetNotes() []string
	}
	if info.GetRole() == roleRunner {
		r, err = agentplanev1.NewTemplateServiceClient(c).RunTemplate(ctx, &agentplanev1.RunTemplateRequest{Envelope: envelope})
	} else {
		r, err = agentplanev1.NewCommandServiceClient(c).Submit(ctx, &agentplanev1.SubmitRequest{Envelope: envelope})
	}
	if err != nil {
		c.forgetWhereabouts() // the incarnation, or the role, may be another one by now
		return nil, err
	}
	return &Submission{Command: r.GetCommand(), Repeated: r.GetRepeated(), Notes: r.GetNotes()}, nil
}

// envelope makes the bytes of a command for the cluster, and its id where it has none.
func (c *Client) envelope(ctx context.Context, cmd *Command) (*agentplanev1.InfoResponse, []byte, error) {
	info, now, err := c.whereabouts(ctx)
	if err != nil {
		return nil, nil, err
	}
	if cmd.ID == "" {
		if cmd.ID, err = NewID(now); err != nil {
			return nil, nil, err
		}
	}
	envelope, err := cmd.Envelope(info.GetClusterId(), info.GetIncarnation())
	return info, envelope, err
}

// roleRunner is the role of those who may run templates and nothing else: there is a call
// for them.
const roleRunner = "runner"

// Run submits the command and awaits its end: the results of all its targets. That some
// did not succeed is no error.
func (c *Client) Run(ctx context.Context, cmd *Command) (*agentplanev1.Command, error) {
	if _, err := c.Submit(ctx, cmd); err != nil {
		return nil, err
	}
	return c.Await(ctx, cmd.ID, nil)
}

// Await follows a command, over the death of nodes, until every invocation has ended, and
// returns it with all of them and the output that the cluster keeps. each, when it is not
// nil, is called after every change; the error that it returns ends the wait.
func (c *Client) Await(ctx context.Context, id string, each func(*Progress) error) (*agentplanev1.Command, error) {
	p := &Progress{}
	err := c.WatchCommand(ctx, &agentplanev1.WatchCommandRequest{Id: id, WithOutput: true}, func(r *agentplanev1.WatchCommandResponse) error {
		p.Take(r)
		if each == nil {
			return nil
		}
		return each(p)
	})
	if err != nil {
		return nil, err
	}
	return p.Command(), nil
}

// Progress is a command as a watch has told it so far. The zero value has heard nothing.
type Progress struct {
	command     *agentplanev1.Command
	invocations map[string]*agentplanev1.Invocation
}

// Take adds what a response of WatchCommand says; a snapshot replaces everything.
func (p *Progress) Take(r *agentplanev1.WatchCommandResponse) {
	if r.GetSnapshot() || p.invocations == nil {
		p.invocations = map[string]*agentplanev1.Invocation{}
	}
	if r.GetCommand() != nil {
		p.command = r.GetCommand()
	}
	for _, i := range r.GetInvocations() {
		p.invocations[i.GetId()] = i
	}
}

// Invocations returns the invocations, by the names of their agents. They are not written
// into later.
func (p *Progress) Invocations() []*agentplanev1.Invocation {
	return slices.SortedFunc(maps.Values(p.invocations), byAgent)
}

// Command returns the command with its invocations.
func (p *Progress) Command() *agentplanev1.Command {
	cmd := p.command
	if cmd == nil {
		cmd = &agentplanev1.Command{}
	}
	cmd.Invocations = p.Invocations()
	return cmd
}

func byAgent(x, y *agentplanev1.Invocation) int {
	return strings.Compare(AgentOf(x)+"\x00"+x.GetId(), AgentOf(y)+"\x00"+y.GetId())
}

// AgentOf returns the name of the agent of an invocation, or its id when it has none: it
// was removed, perhaps.
func AgentOf(i *agentplanev1.Invocation) string {
	if i.GetAgentName() != "" {
		return i.GetAgentName()
	}
	return i.GetAgentId()
}

// Final reports whether an attempt in the state has ended. LOST has, although evidence
// may supersede it.
func Final(s agentplanev1.AttemptState) bool {
	return s >= agentplanev1.AttemptState_ATTEMPT_STATE_LOST
}

// Command returns one command without its invocations, and with what was asked.
func (c *Client) Command(ctx context.Context, id string, opts ...ReadOption) (*agentplanev1.Command, error) {
	r, err := agentplanev1.NewCommandServiceClient(c).GetCommand(ctx, &agentplanev1.GetCommandRequest{
		Id: id, WithSpec: true, Stale: readOf(opts).stale,
	})
	return r.GetCommand(), err
}

// Results returns one command as it is now, with all its invocations by the names of
// their agents; withOutput adds what the cluster keeps of what their programs printed.
func (c *Client) Results(ctx context.Context, id string, withOutput bool, opts ...ReadOption) (*agentplanev1.Command, error) {
	r, err := agentplanev1.NewCommandServiceClient(c).GetCommand(ctx, &agentplanev1.GetCommandRequest{
		Id: id, WithInvocations: true, WithOutput: withOutput, WithSpec: true, Stale: readOf(opts).stale,
	})
	slices.SortFunc(r.GetCommand().GetInvocations(), byAgent)
	return r.GetCommand(), err
}

// Cancel makes sure that what has not started never starts, and asks the agents to end
// the rest. Repeated, it answers what stands.
func (c *Client) Cancel(ctx context.Context, id string) (*agentplanev1.Command, error) {
	r, err := agentplanev1.NewCommandServiceClient(c).CancelCommand(ctx, &agentplanev1.CancelCommandRequest{Id: id})
	return r.GetCommand(), err
}

// Why returns the proof of what became of a command on an agent, by id or name.
func (c *Client) Why(ctx context.Context, id, agent string) (*agentplanev1.WhyResponse, error) {
	return agentplanev1.NewCommandServiceClient(c).Why(ctx, &agentplanev1.WhyRequest{CommandId: id, Agent: agent})
}

// CommandQuery says which commands are meant; the zero value means all. Of several fields
// all have to hold.
type CommandQuery struct {
	State agentplanev1.CommandState
	// Operator is who submitted it.
	Operator string
	// Agent, by id or name, is one of its targets.
	Agent string
	// Text is in its summary or its selector, in any case of letters.
	Text string
	// Since and Until bound when it was submitted: at Since or later, before Until.
	Since, Until time.Time
	// Outcomes are states of which one is that of some invocation; with Agent, of the
	// one there.
	Outcomes []agentplanev1.AttemptState
	// RerunOf is the command from which it took its targets.
	RerunOf string
	// Schedule is the one that made it.
	Schedule string
	// Paused says that it is, and may be resumed.
	Paused bool
	// Before is the id of a command: only those submitted earlier.
	Before string
}

// CommandPage is a part of a list.
type CommandPage struct {
	Commands []*agentplanev1.Command
	// Next is Before of the query that goes on; empty when there is no more.
	Next string
}

const (
	maxPage  = 1000
	eachPage = 200
)

// ListCommands returns up to limit commands, the newest first. The cluster looks at a
// bounded number of commands for each call, and this makes as many calls as it takes.
func (c *Client) ListCommands(ctx context.Context, q CommandQuery, limit int, opts ...ReadOption) (*CommandPage, error) {
	page := &CommandPage{}
	for {
		r, err := agentplanev1.NewCommandServiceClient(c).ListCommands(ctx, &agentplanev1.ListCommandsRequest{
			Limit: uint32(min(limit-len(page.Commands), maxPage)), Before: q.Before, State: q.State, SubmittedBy: q.Operator,
			Agent: q.Agent, Text: q.Text, Since: nanos(q.Since), Until: nanos(q.Until), Outcomes: q.Outcomes, RerunOf: q.RerunOf,
			Schedule: q.Schedule, Paused: q.Paused, Stale: readOf(opts).stale,
		})
		if err != nil {
			return nil, err
		}
		page.Commands = append(page.Commands, r.GetCommands()...)
		page.Next = r.GetNext()
		if page.Next == "" || len(page.Commands) >= limit {
			return page, nil
		}
		if page.Next == q.Before {
			return nil, fmt.Errorf("list commands: the node answered that the list goes on at %q, where it began", page.Next)
		}
		q.Before = page.Next
	}
}

// Commands yields the commands, the newest first. Each page is a read of its own: what is
// submitted meanwhile is not seen. After an error nothing more comes.
func (c *Client) Commands(ctx context.Context, q CommandQuery, opts ...ReadOption) iter.Seq2[*agentplanev1.Command, error] {
	return func(yield func(*agentplanev1.Command, error) bool) {
		for {
			page, err := c.ListCommands(ctx, q, eachPage, opts...)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, cmd := range page.Commands {
				if !yield(cmd, nil) {
					return
				}
			}
			if page.Next == "" {
				return
			}
			q.Before = page.Next
		}
	}
}

// nanos is the time as requests have it, 0 for none. Times that nobody can have submitted
// anything at are brought near.
func nanos(t time.Time) int64 {
	switch {
	case t.IsZero():
		return 0
	case t.Unix() <= 0:
		return 1
	case t.Unix() >= math.MaxInt64/int64(time.Second):
		return math.MaxInt64
	}
	return t.UnixNano()
}
