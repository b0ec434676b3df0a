package fsm

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/wave"
)

func keyOf(name string) []byte { return []byte("key-of-" + name) }

func journalOf(name string) []byte { return []byte("journal-" + name) }

// verbs are the commands that are mutations. What a command leaves out is taken
// from the state, as an honest node would.
var verbs = map[string]func(*call) *raftlogv1.Mutation{
	"take-office": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_TakeOffice{TakeOffice: &raftlogv1.TakeOffice{NodeId: c.word(0), Term: c.int("term", c.s.term)}}}
	},
	"init": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_InitCluster{InitCluster: &raftlogv1.InitCluster{
			ClusterId:   c.text("id", "cluster-1"),
			Incarnation: &raftlogv1.Incarnation{Number: uint32(c.int("incarnation", 1)), Id: bytes.Repeat([]byte{'i'}, 16)},
			Node: &raftlogv1.Node{
				Id: c.text("node", "a"), Name: c.text("node", "a"), Address: "a:7460", PublicKey: keyOf("a"), CaCertificate: []byte("ca-a"),
				Candidate: true, FeatureLevel: 1,
			},
			Keyring: []*raftlogv1.GossipKey{{Key: []byte("gossip-1")}}, FeatureLevel: 1,
		}}}
	},
	"register-node": func(c *call) *raftlogv1.Mutation {
		n := c.word(0)
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RegisterNode{RegisterNode: &raftlogv1.RegisterNode{
			TokenId: c.token(""),
			Node: &raftlogv1.Node{
				Id: n, Name: c.text("name", n), Address: c.text("address", n+":7460"), PublicKey: keyOf(c.text("key", n)), CaCertificate: []byte("ca-" + n),
				FeatureLevel: uint32(c.int("level", 1)), StartCounter: c.int("start", 0),
			},
		}}}
	},
	"node-started": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_NodeStarted{NodeStarted: &raftlogv1.NodeStarted{
			NodeId: c.word(0), StartCounter: c.int("start", 1), FeatureLevel: uint32(c.int("level", 1)), Address: c.text("address", ""), Version: c.text("version", ""),
		}}}
	},
	"remove-node": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveNode{RemoveNode: &raftlogv1.RemoveNode{NodeId: c.word(0), SeenIndex: c.int("seen", 0)}}}
	},
	"raise-level": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RaiseFeatureLevel{RaiseFeatureLevel: &raftlogv1.RaiseFeatureLevel{
			Level: uint32(c.int("level", 1)), ServerIds: c.list("servers"),
		}}}
	},
	"create-lock": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CreateLock{CreateLock: &raftlogv1.CreateLock{
			Name: c.word(0), Limit: uint32(c.int("limit", 1)), PerLabel: c.text("per", ""), Selector: strings.ReplaceAll(c.text("where", ""), "~", " == "), CreatedBy: "ann",
		}}}
	},
	"delete-lock": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_DeleteLock{DeleteLock: &raftlogv1.DeleteLock{Name: c.word(0), Force: c.text("force", "") != ""}}}
	},
	"acquire": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_AcquireLock{AcquireLock: &raftlogv1.AcquireLock{
			Lock: c.word(0), LeaseId: c.s.id(c.word(1), 0), Holder: c.text("by", "ann"), AgentId: c.text("agent", ""), Ttl: int64(c.duration("ttl", 30*time.Second)),
			Limit: uint32(c.int("limit", 0)), PerLabel: c.text("per", ""),
		}}}
	},
	"renew": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RenewLock{RenewLock: &raftlogv1.RenewLock{Lock: c.word(0), LeaseId: c.s.id(c.word(1), 0), Holder: c.text("by", "ann")}}}
	},
	"give-back": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReleaseLock{ReleaseLock: &raftlogv1.ReleaseLock{
			Lock: c.word(0), LeaseId: c.s.id(c.word(1), 0), Holder: c.text("by", "ann"), Force: c.text("force", "") != "",
		}}}
	},
	"expire-leases": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ExpireLeases{ExpireLeases: &raftlogv1.ExpireLeases{Max: uint32(c.int("max", 100))}}}
	},
	"put-setting": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PutSetting{PutSetting: &raftlogv1.PutSetting{
			Key: c.word(0), Value: c.word(1), ExpectedVersion: c.int("version", 0),
		}}}
	},
	"set-keyring": func(c *call) *raftlogv1.Mutation {
		m := &raftlogv1.SetKeyring{ExpectedTrustIndex: c.int("trust", c.s.m.View().Cluster().GetTrustIndex())}
		for _, k := range c.words {
			m.Keyring = append(m.Keyring, &raftlogv1.GossipKey{Key: []byte(k)})
		}
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_SetKeyring{SetKeyring: m}}
	},
	"token": func(c *call) *raftlogv1.Mutation {
		kind := raftlogv1.TokenKind(raftlogv1.TokenKind_value["TOKEN_KIND_"+strings.ToUpper(c.text("kind", "agent"))])
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CreateToken{CreateToken: &raftlogv1.CreateToken{
			Ttl: int64(c.duration("ttl", time.Hour)),
			Token: &raftlogv1.Token{
				Id: c.s.id(c.word(0), c.duration("made", 0)), Kind: kind, ProofKey: []byte("proof"), AuthenticatorHash: bytes.Repeat([]byte{'h'}, 32),
				MaxUses: uint32(c.int("uses", 1)), Labels: c.labels("labels"), OnlyTheseLabels: c.text("only", "") != "",
				Role: c.text("role", ""), OperatorName: c.text("operator", ""), Candidate: c.text("candidate", "") != "",
			},
		}}}
	},
	"revoke-token": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RevokeToken{RevokeToken: &raftlogv1.RevokeToken{Id: c.s.id(c.word(0), 0)}}}
	},
	"purge-tokens": func(c *call) *raftlogv1.Mutation {
		m := &raftlogv1.PurgeTokens{}
		for _, n := range c.words {
			m.TokenIds = append(m.TokenIds, c.s.id(n, 0))
		}
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PurgeTokens{PurgeTokens: m}}
	},
	"enroll-operator": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollOperator{EnrollOperator: &raftlogv1.EnrollOperator{
			Name: c.word(0), PublicKey: keyOf(c.text("key", c.word(0))), Role: c.text("role", ""), TokenId: c.token(""), From: "10.0.0.9:1234",
		}}}
	},
	"revoke-operator": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RevokeOperator{RevokeOperator: &raftlogv1.RevokeOperator{Name: c.word(0)}}}
	},
	"enroll": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: &raftlogv1.EnrollAgent{
			AgentId: c.word(0), Name: c.text("name", c.word(0)), PublicKey: keyOf(c.text("key", c.word(0))), Labels: c.labels("labels"),
			TokenId: c.token("tok"), From: "10.0.0.7:5555",
		}}}
	},
	"remove-agent": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveAgent{RemoveAgent: &raftlogv1.RemoveAgent{AgentId: c.word(0), EnrolledIndex: c.int("enrolled", 0)}}}
	},
	"label": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_SetAgentLabels{SetAgentLabels: &raftlogv1.SetAgentLabels{
			AgentId: c.word(0), Set: c.labels("set"), Remove: c.list("remove"), ExpectedVersion: c.int("version", 0),
		}}}
	},
	"facts": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReportFacts{ReportFacts: &raftlogv1.ReportFacts{
			AgentId: c.word(0), SessionEpoch: c.epoch(), NodeId: c.holder(), Facts: c.labels("facts"), Hash: []byte(c.text("hash", "")), Version: c.text("version", ""),
		}}}
	},
	"readmit": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReadmitAgent{ReadmitAgent: &raftlogv1.ReadmitAgent{AgentId: c.word(0)}}}
	},
	"open-session": openSessionVerb,
	"ready": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReadySession{ReadySession: &raftlogv1.ReadySession{AgentId: c.word(0), SessionEpoch: c.epoch(), NodeId: c.holder()}}}
	},
	"end-session": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EndSession{EndSession: &raftlogv1.EndSession{
			AgentId: c.word(0), SessionEpoch: c.epoch(), Left: c.text("left", "") != "", Grace: int64(c.duration("grace", 30*time.Second)), Reason: c.text("reason", "stream_broken"),
			NodeId: c.text("node", ""), SentAway: c.text("away", "") != "",
		}}}
	},
	"lose-node-sessions": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_LoseNodeSessions{LoseNodeSessions: &raftlogv1.LoseNodeSessions{
			NodeId: c.word(0), UpToStartCounter: c.int("start", 1), Grace: int64(c.duration("grace", 30*time.Second)), Reason: "node_dead", Max: uint32(c.int("max", 0)),
		}}}
	},
	"mark-down": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_MarkDown{MarkDown: &raftlogv1.MarkDown{AgentId: c.word(0), SessionEpoch: c.epoch()}}}
	},
	"submit": submitVerb,
	"release": func(c *call) *raftlogv1.Mutation {
		id := c.s.id(c.word(0), 0)
		row, _ := c.s.m.View().Command(id)
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReleaseCommand{ReleaseCommand: &raftlogv1.ReleaseCommand{
			CommandId: id, ExpectedReleased: uint32(c.int("released", uint64(row.GetReleased()))), Max: uint32(c.int("max", 100)), Wave: uint32(c.int("wave", 1)),
		}}}
	},
	"claim": func(c *call) *raftlogv1.Mutation {
		id, i := c.invocation(0)
		s, _ := c.s.m.View().Session(c.word(1))
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ClaimAttempt{ClaimAttempt: &raftlogv1.ClaimAttempt{
			InvocationId: id, Attempt: uint32(c.int("attempt", uint64(i.GetAttempt()))), AgentId: c.text("agent", c.word(1)),
			SessionEpoch: c.number("epoch", s.GetEpoch()), NodeId: c.text("node", s.GetNodeId()),
		}}}
	},
	"report": func(c *call) *raftlogv1.Mutation {
		id, i := c.invocation(0)
		s, _ := c.s.m.View().Session(c.text("agent", c.word(1)))
		state, named := raftlogv1.AttemptState_value["ATTEMPT_STATE_"+c.word(2)]
		if !named {
			n, _ := strconv.Atoi(c.word(2))
			state = int32(n)
		}
		m := &raftlogv1.ReportAttempt{
			InvocationId: id, Attempt: uint32(c.int("attempt", uint64(i.GetAttempt()))), AgentId: c.text("agent", c.word(1)), Fence: c.number("fence", i.GetFence()),
			SessionEpoch: c.number("epoch", s.GetEpoch()), NodeId: c.text("node", s.GetNodeId()), State: raftlogv1.AttemptState(state),
			Reason: c.text("reason", ""), Detail: strings.Repeat(c.text("detail", ""), int(c.int("times", 1))), CancelTooLate: c.text("too-late", "") != "", Undo: undoVerb(c),
		}
		exit, seq, output := c.int("exit", 0), c.int("seq", 0), c.int("output", 0)
		steps := c.text("steps", "")
		if exit != 0 || seq != 0 || output != 0 || steps != "" {
			m.Result = &raftlogv1.Result{ExitCode: int32(exit), JournalSeq: seq, Steps: storySteps(steps)}
			if output != 0 {
				m.Result.Stdout = &raftlogv1.Output{Head: bytes.Repeat([]byte{'o'}, int(output)), TotalBytes: output}
			}
		}
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReportAttempt{ReportAttempt: m}}
	},
	"confirm": func(c *call) *raftlogv1.Mutation {
		m := &raftlogv1.ConfirmCommand{CommandId: c.s.id(c.word(0), 0), UpToIndex: c.int("up-to", c.s.index), ConfirmedBy: c.text("by", "ann")}
		for _, agent := range c.list("on") {
			a, _ := c.s.m.View().Agent(agent)
			m.InvocationIds = append(m.InvocationIds, InvocationID(m.CommandId, a.GetOrdinal()))
		}
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ConfirmCommand{ConfirmCommand: m}}
	},
	"advance-rollout": func(c *call) *raftlogv1.Mutation {
		id := c.s.id(c.word(0), 0)
		row, _ := c.s.m.View().Command(id)
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_AdvanceRollout{AdvanceRollout: &raftlogv1.AdvanceRollout{
			CommandId: id, ExpectedWave: uint32(c.int("wave", uint64(row.GetWave()))), ExpectedReleased: uint32(c.int("released", uint64(row.GetReleased()))), Max: uint32(c.int("max", 100)),
		}}}
	},
	"pause": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PauseCommand{PauseCommand: &raftlogv1.PauseCommand{CommandId: c.s.id(c.word(0), 0), PausedBy: "ann"}}}
	},
	"resume": func(c *call) *raftlogv1.Mutation {
		id := c.s.id(c.word(0), 0)
		row, _ := c.s.m.View().Command(id)
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ResumeCommand{ResumeCommand: &raftlogv1.ResumeCommand{
			CommandId: id, ExpectedPause: c.number("pause", row.GetPause().GetNumber()), ResumedBy: "bob",
		}}}
	},
	"abort": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_AbortCommand{AbortCommand: &raftlogv1.AbortCommand{CommandId: c.s.id(c.word(0), 0), AbortedBy: "ann"}}}
	},
	"cancel": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CancelCommand{CancelCommand: &raftlogv1.CancelCommand{CommandId: c.s.id(c.word(0), 0), CanceledBy: "ann"}}}
	},
	"expire": func(c *call) *raftlogv1.Mutation {
		m := &raftlogv1.ExpireCommands{Max: uint32(c.int("max", 100))}
		for _, n := range c.words {
			m.CommandIds = append(m.CommandIds, c.s.id(n, 0))
		}
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ExpireCommands{ExpireCommands: m}}
	},
	"lose": func(c *call) *raftlogv1.Mutation {
		id, i := c.invocation(0)
		s, _ := c.s.m.View().Session(c.word(1))
		state := i.GetState()
		if v := c.text("state", ""); v != "" {
			state = raftlogv1.AttemptState(raftlogv1.AttemptState_value["ATTEMPT_STATE_"+v])
		}
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_LoseAttempt{LoseAttempt: &raftlogv1.LoseAttempt{
			Key:           &raftlogv1.AttemptKey{InvocationId: id, Attempt: uint32(c.int("attempt", uint64(i.GetAttempt())))},
			ExpectedState: state, ExpectedFence: c.number("fence", i.GetFence()), ExpectedSessionEpoch: c.number("epoch", s.GetEpoch()),
			Reason: c.text("reason", "no_contact"), NodeId: c.text("node", ""),
		}}}
	},
	"put-schedule": putScheduleVerb,
	"fire":         fireVerb,
	"delete-schedule": func(c *call) *raftlogv1.Mutation {
		row, _ := c.s.m.View().Schedule(c.word(0))
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_DeleteSchedule{DeleteSchedule: &raftlogv1.DeleteSchedule{Name: c.word(0), Id: row.GetId()}}}
	},
	"pause-schedule": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PauseSchedule{PauseSchedule: &raftlogv1.PauseSchedule{Name: c.word(0), By: "ann"}}}
	},
	"resume-schedule": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ResumeSchedule{ResumeSchedule: &raftlogv1.ResumeSchedule{Name: c.word(0)}}}
	},
	"end-schedules": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EndSchedules{EndSchedules: &raftlogv1.EndSchedules{Keys: c.scheduleKeys()}}}
	},
	"purge-schedules": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PurgeSchedules{PurgeSchedules: &raftlogv1.PurgeSchedules{Keys: c.scheduleKeys()}}}
	},
	"record-output": func(c *call) *raftlogv1.Mutation {
		id, i := c.invocation(0)
		stream := func(name string) *raftlogv1.StreamRecord {
			sum := sha256.Sum256([]byte(c.text(name+"-content", name)))
			return &raftlogv1.StreamRecord{Bytes: c.int(name, 0), Missing: c.int(name+"-missing", 0), Sha256: sum[:]}
		}
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RecordOutput{RecordOutput: &raftlogv1.RecordOutput{
			InvocationId: id, NodeId: c.text("node", "a"),
			Record: &raftlogv1.OutputRecord{
				Attempt: uint32(c.int("attempt", uint64(i.GetAttempt()))), NodeIds: c.list("on"), Stdout: stream("stdout"), Stderr: stream("stderr"),
			},
		}}}
	},
	"record-blob": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RecordBlob{RecordBlob: &raftlogv1.RecordBlob{
			NodeId: c.text("node", "a"), Blob: &raftlogv1.BlobRef{Sha256: c.text("sum", sumOf(c.word(0))), Size: c.int("size", 100)},
			NodeIds: c.list("on"), MaxBytes: c.int("max-bytes", 1000), MaxBlobs: uint32(c.int("max-blobs", 100)),
		}}}
	},
	"expire-blobs": func(c *call) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ExpireBlobs{ExpireBlobs: &raftlogv1.ExpireBlobs{
			Keep: int64(c.duration("keep", time.Hour)), Max: uint32(c.int("max", 10)),
		}}}
	},
	"purge": func(c *call) *raftlogv1.Mutation {
		m := &raftlogv1.PurgeCommands{}
		for _, n := range c.words {
			m.CommandIds = append(m.CommandIds, c.s.id(n, 0))
		}
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PurgeCommands{PurgeCommands: m}}
	},
}

// token is the id of the token that the story names.
func (c *call) token(otherwise string) string {
	if name := c.text("token", otherwise); name != "" {
		return c.s.id(name, 0)
	}
	return ""
}

// epoch is that of the agent's session unless the story names another.
func (c *call) epoch() uint64 {
	s, _ := c.s.m.View().Session(c.word(0))
	return c.number("epoch", s.GetEpoch())
}

// holder is the node that holds the agent's session unless the story names another.
func (c *call) holder() string {
	s, _ := c.s.m.View().Session(c.word(0))
	return c.text("node", s.GetNodeId())
}

func openSessionVerb(c *call) *raftlogv1.Mutation {
	agent := c.word(0)
	v := c.s.m.View()
	s, _ := v.Session(agent)
	node := c.text("node", "a")
	n, _ := v.Node(node)
	c.s.streams++
	m := &raftlogv1.OpenSession{
		AgentId: agent, NodeId: node, NodeStartCounter: c.int("node-start", n.GetStartCounter()), SeenEpoch: c.number("seen", s.GetEpoch()),
		StreamId: []byte(c.text("stream", fmt.Sprintf("stream-%d", c.s.streams))), StartId: []byte(c.text("start", "start-1")),
		Journal:       &raftlogv1.Journal{Id: []byte(c.text("journal", string(journalOf(agent)))), Seq: c.int("seq", s.GetJournal().GetSeq())},
		PreviousEpoch: c.number("prev", s.GetEpoch()), Slots: uint32(c.int("slots", 4)),
	}
	for _, command := range c.list("open") {
		if a, found := v.Agent(agent); found {
			m.OpenAttempts = append(m.OpenAttempts, &raftlogv1.AttemptKey{InvocationId: InvocationID(c.s.id(command, 0), a.GetOrdinal()), Attempt: 1})
		}
	}
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_OpenSession{OpenSession: m}}
}

func submitVerb(c *call) *raftlogv1.Mutation {
	id := c.s.id(c.word(0), c.duration("made", 0))
	m := &raftlogv1.SubmitCommand{
		Id: id, Envelope: []byte("envelope"), Digest: []byte(c.text("digest", "digest")), SubmittedBy: "ann",
		Ttl: int64(c.duration("ttl", 5*time.Minute)), QueueOffline: c.text("queue", "") != "", RunTimeout: int64(c.duration("timeout", 10*time.Minute)),
		KillGrace: int64(10 * time.Second), Delivery: raftlogv1.Delivery_DELIVERY_AT_MOST_ONCE, QueueMax: uint32(c.int("queue-max", 0)),
	}
	if n := c.int("attempts", 1); n > 1 {
		m.Delivery, m.MaxAttempts = raftlogv1.Delivery_DELIVERY_IDEMPOTENT, uint32(n)
	}
	m.Release = uint32(c.int("release", 0))
	m.Locks, m.Exclusive = c.list("locks"), c.text("exclusive", "") != ""
	m.FleetLocks = c.list("fleet")
	m.Precedence, m.Supersede = int32(c.int("priority", NormalPriority))-NormalPriority, c.text("supersede", "")
	m.Splay = int64(c.duration("splay", 0))
	for _, name := range c.list("blobs") {
		m.Blobs = append(m.Blobs, &raftlogv1.BlobRef{Sha256: sumOf(name), Size: c.int("size", 100)})
	}
	if within := c.duration("undo", 0); within != 0 {
		m.Undo = &raftlogv1.UndoPlan{Within: int64(within), By: raftlogv1.ConfirmBy_CONFIRM_BY_OPERATOR}
		if c.text("by", "") == "contact" {
			m.Undo.By = raftlogv1.ConfirmBy_CONFIRM_BY_CONTACT
		}
	}
	if d := c.duration("not-before", 0); d != 0 {
		m.NotBefore = c.s.now.Add(d).UnixNano()
	}
	for _, on := range c.list("on") {
		if n, err := strconv.ParseUint(strings.TrimPrefix(on, "#"), 10, 32); err == nil {
			m.AgentOrdinals = append(m.AgentOrdinals, uint32(n))
		} else if a, found := c.s.m.View().Agent(on); found {
			m.AgentOrdinals = append(m.AgentOrdinals, a.GetOrdinal())
		}
	}
	m.Rollout = rolloutOf(c, m)
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_SubmitCommand{SubmitCommand: m}}
}

// rolloutOf reads waves=1,50%,label.ring=canary and what belongs to them.
func rolloutOf(c *call, m *raftlogv1.SubmitCommand) *raftlogv1.RolloutPlan {
	text := c.text("waves", "")
	p := &raftlogv1.RolloutPlan{
		Soak: int64(c.duration("soak", 0)), GateHealth: c.text("health", "") != "", GateProbe: c.text("probe", "") != "", Strict: c.text("strict", "") != "",
	}
	if p.GateProbe {
		p.ProbeTimeout, p.ProbeSummary = int64(time.Minute), "check "+c.text("probe", "")
	}
	if limit := c.text("max-failures", ""); limit != "" {
		p.Limited = true
		var err error
		if p.MaxFailures, p.MaxFailuresBasisPoints, err = wave.ParseAmount(limit); err != nil {
			c.t.Fatal(err)
		}
	}
	if c.text("on-breach", "") == "abort" {
		p.OnBreach = raftlogv1.OnBreach_ON_BREACH_ABORT
	}
	for _, rank := range c.list("ranks") {
		n, _ := strconv.ParseUint(rank, 10, 32)
		p.Ranks = append(p.Ranks, uint32(n))
	}
	if text == "" {
		return nil
	}
	shares, err := wave.Parse(text)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, s := range shares {
		w := &raftlogv1.WavePlan{Share: s.String(), Count: s.Count, BasisPoints: s.BasisPoints}
		for a := range c.s.m.tables.agents.by(agentsByOrdinal, "") {
			if slices.ContainsFunc(a.GetLabels(), func(l *raftlogv1.Label) bool {
				return s.Label != "" && l.GetName() == s.Label && l.GetValue() == s.Value
			}) {
				w.Members = append(w.Members, a.GetOrdinal())
			}
		}
		p.Waves = append(p.Waves, w)
	}
	if c.text("complete", "yes") == "yes" && p.Waves[len(p.Waves)-1].BasisPoints != wave.Whole {
		p.Waves = append(p.Waves, &raftlogv1.WavePlan{Share: "100%", BasisPoints: wave.Whole})
	}
	if m.Release == 0 && c.text("release", "") == "" {
		m.Release = uint32(len(m.AgentOrdinals))
	}
	return p
}

// storySteps reads "drain:SUCCEEDED,upgrade:RUNNING:reason".
func storySteps(words string) (steps []*raftlogv1.StepResult) {
	for n, word := range strings.Split(words, ",") {
		if name, state, ok := strings.Cut(word, ":"); ok {
			state, reason, _ := strings.Cut(state, ":")
			steps = append(steps, &raftlogv1.StepResult{
				Number: uint32(n + 1), Name: name, State: raftlogv1.AttemptState(raftlogv1.AttemptState_value["ATTEMPT_STATE_"+state]), Reason: reason,
			})
		}
	}
	return steps
}
