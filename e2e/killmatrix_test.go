package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// pointsTag is the build tag of programs that die at the point which the file named by
// POINT holds: points_die.go of their packages.
const pointsTag = "agentplane_points"

// cell is one of the kill matrix: the process that dies, where, and what may have become
// of the command then.
type cell struct {
	point string
	who   string // dies
	does  string // with the command: submit or cancel
	ends  []cellEnd
}

// cellEnd is a final state with its reason, and how often the program was started.
type cellEnd struct {
	state, reason string
	starts        int
}

const (
	theLeader = "leader" // which does not hold the agent's session
	theHolder = "holder" // the node that does
	theBoth   = "both"   // a leader that does
	theAgent  = "agent"
)

var (
	ran      = []cellEnd{{"SUCCEEDED", "exit", 1}}
	notRun   = []cellEnd{{"LOST", "agent_restart", 0}}
	canceled = []cellEnd{{"CANCELED", "canceled", 0}}
)

// killMatrix is every step of a command by the process that does it. What happens to the
// supervisor, and to both at once, is in TestKilledAtEveryPoint of agent/execute.
var killMatrix = []cell{
	// The leader: the entry is built and not handed to raft; it is handed over and may
	// commit or not; it is committed and applied, and nobody was answered.
	{"leader-before_SubmitCommand", theLeader, "submit", ran},
	{"leader-handed_SubmitCommand", theLeader, "submit", ran},
	{"leader-after_SubmitCommand", theLeader, "submit", ran},
	{"leader-before_ClaimAttempt", theLeader, "submit", ran},
	{"leader-handed_ClaimAttempt", theLeader, "submit", ran},
	{"leader-after_ClaimAttempt", theLeader, "submit", ran},
	{"leader-before_ReportAttempt", theLeader, "submit", ran},
	{"leader-handed_ReportAttempt", theLeader, "submit", ran},
	{"leader-after_ReportAttempt", theLeader, "submit", ran},
	{"leader-before_CancelCommand", theLeader, "cancel", canceled},
	{"leader-handed_CancelCommand", theLeader, "cancel", canceled},
	{"leader-after_CancelCommand", theLeader, "cancel", canceled},
	// The leader, which holds the session as well.
	{"leader-handed_SubmitCommand", theBoth, "submit", ran},
	{"leader-handed_ClaimAttempt", theBoth, "submit", ran},
	{"leader-after_ClaimAttempt", theBoth, "submit", ran},
	{"node-before-deliver", theBoth, "submit", ran},
	{"leader-handed_ReportAttempt", theBoth, "submit", ran},
	{"leader-after_ReportAttempt", theBoth, "submit", ran},
	// The node that holds the session, and does not lead.
	{"node-before-deliver", theHolder, "submit", ran},
	{"node-after-deliver", theHolder, "submit", ran},
	{"node-before-report", theHolder, "submit", ran},
	{"node-before-confirm", theHolder, "submit", ran},
	// The agent.
	{"before-intent", theAgent, "submit", ran},
	{"after-intent", theAgent, "submit", notRun},
	{"after-mkdir", theAgent, "submit", notRun},
	{"before-fork", theAgent, "submit", notRun},
	{"after-fork", theAgent, "submit", ran},
	{"before-finish", theAgent, "submit", ran}, // after exit, before RESULT
	{"after-finish", theAgent, "submit", ran},  // after RESULT, before it is told
	{"agent-told", theAgent, "submit", ran},
	{"agent-before-confirmed", theAgent, "submit", ran},
	{"agent-confirmed", theAgent, "submit", ran},
}

// TestKillMatrix kills one process at one point of one command, again and again, and wants
// after each death: the command is there under its id and answers its repetition (I1, I8);
// it ends as it must, and every node says the same then and in the end (I3); by the
// program's own witness it started once or never, as its state says (I2), and never when it
// was canceled before its claim (I6); and the claims of its agent were made under growing
// session epochs (I5).
func TestKillMatrix(t *testing.T) {
	if !full() {
		t.Skip("SKIPPED: without AGENTPLANE_E2E=full; it builds programs that die at named points")
	}
	dir, err := os.MkdirTemp("", "agentplane-points-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	tags := pointsTag
	if more := os.Getenv("AGENTPLANE_E2E_TAGS"); more != "" {
		tags += "," + more
	}
	bin, err := lab.Build(within(t, 10*time.Minute), ".", dir, "-tags", tags)
	if err != nil {
		t.Fatal(err)
	}
	l := newLabOf(t, bin)
	m := &matrix{file: filepath.Join(l.Dir, "point"), ended: map[string]string{}}
	l.NodeEnv, l.AgentEnv = []string{"POINT=" + m.file}, []string{"POINT=" + m.file}
	m.fleet = newFleetIn(t, l, 1, []string{"--agent-heartbeat-interval", "500ms", "--agent-node-death-grace", "5s"}, []string{"--slots", "1"})
	m.stream = newStream(t, m.fleet)
	for _, c := range killMatrix {
		t.Run(c.who+"/"+c.point, func(t *testing.T) { m.kill(t, c) })
		if t.Failed() {
			t.Fatal("the next cell needs a whole cluster")
		}
	}
	for id, was := range m.ended {
		for _, address := range m.addresses {
			if got := m.state(t, address, id); got != was {
				t.Errorf("command %s ended as %s, and node %s calls it %s in the end", id, was, address, got)
			}
		}
	}
}

type matrix struct {
	*fleet
	stream *stream
	file   string
	ended  map[string]string // command: the state that was seen
}

// kill is one cell.
func (m *matrix) kill(t *testing.T, c cell) {
	voters(t, m.Lab, len(three))
	await(t, 30*time.Second, "a1 has a session", func() error {
		a, err := m.agentView(t.Context(), "a1")
		if err == nil && a.Health != "ONLINE" && a.Health != "FLAPPING" { // who dies so often is called so
			err = fmt.Errorf("it is %s", a.Health)
		}
		return err
	})
	// What is said to be its session may be that of a node which was killed a moment ago and runs
	// again.
	if _, o := m.run(t, "a1", nil, m.argv()); o.Err() != nil {
		t.Fatal(o.Err())
	}
	victim := m.victim(t, c)
	api, err := m.stream.client(0)
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	id := newID(t)
	envelope, err := envelopeOf(&agentplanev1.CommandSpec{
		ClusterId: m.stream.info.ClusterId, Incarnation: m.stream.info.Incarnation, CommandId: id,
		Agents: []string{"a1"}, Argv: m.argv(), RunTimeout: int64(time.Minute), KillGrace: int64(time.Second),
		NotAfter: time.Now().Add(5 * time.Minute).UnixNano(), Delivery: agentplanev1.Delivery_DELIVERY_AT_MOST_ONCE, QueueOffline: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.does == "cancel" {
		m.agents[0].Kill() // so that nothing claims it
		m.submit(t, api, envelope)
		m.aim(t, c.point)
		await(t, time.Minute, "the cancel is acknowledged", func() error {
			_, err := agentplanev1.NewCommandServiceClient(api).CancelCommand(t.Context(), &agentplanev1.CancelCommandRequest{Id: id})
			return err
		})
		if err := m.agents[0].Start(); err != nil {
			t.Fatal(err)
		}
	} else {
		m.aim(t, c.point)
		m.submit(t, api, envelope)
	}
	await(t, 30*time.Second, c.who+" dies at "+c.point, func() error {
		if _, err := os.Stat(m.file + ".taken"); err != nil {
			return err
		}
		if victim.Running() {
			return errors.New("it runs")
		}
		return nil
	})
	if c.who == theAgent {
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
	}
	// A node stays dead until the command has ended: two of three are enough.
	m.judge(t, c, id)
	if !m.submit(t, api, envelope).GetRepeated() {
		t.Errorf("command %s was accepted as new when it was repeated", id)
	}
	if c.who != theAgent {
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(m.file + ".taken"); err != nil {
		t.Error(err)
	}
}

// victim is the process that is to die, once leadership is where the cell wants it.
func (m *matrix) victim(t *testing.T, c cell) *lab.Process {
	if c.who == theAgent {
		return &m.agents[0].Process
	}
	a, err := m.agentView(t.Context(), "a1")
	if err != nil {
		t.Fatal(err)
	}
	var victim *lab.Process
	await(t, 30*time.Second, "leadership is where "+c.who+" wants it", func() error {
		members, err := m.Members(t.Context(), "--request-timeout", "3s")
		if err != nil {
			return err
		}
		for _, mem := range members {
			holds := mem.ID == a.Node || mem.Name == a.Node
			switch {
			case holds && mem.Leader && c.who != theBoth:
				o := m.Ctl(t.Context(), "cluster", "transfer")
				return errors.Join(errors.New("the holder leads"), o.Err())
			case holds && !mem.Leader && c.who == theBoth:
				o := m.Ctl(t.Context(), "cluster", "transfer", mem.Name)
				return errors.Join(errors.New("the holder does not lead"), o.Err())
			}
			for _, n := range m.nodes {
				if n.Name == mem.Name && (c.who != theLeader && holds || c.who == theLeader && mem.Leader) {
					victim = &n.Process
				}
			}
		}
		if victim == nil {
			return fmt.Errorf("there is no %s among %+v; the session is on %q", c.who, members, a.Node)
		}
		return nil
	})
	return victim
}

// aim lets whoever comes to the point die there, once.
func (m *matrix) aim(t *testing.T, point string) {
	t.Helper()
	if err := os.WriteFile(m.file+".new", []byte(point), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(m.file+".new", m.file); err != nil {
		t.Fatal(err)
	}
}

// submit repeats the same content until it is acknowledged.
func (m *matrix) submit(t *testing.T, api *client.Client, envelope []byte) *agentplanev1.SubmitResponse {
	t.Helper()
	var r *agentplanev1.SubmitResponse
	await(t, time.Minute, "the submission is acknowledged", func() (err error) {
		r, err = agentplanev1.NewCommandServiceClient(api).Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope})
		return err
	})
	return r
}

// state is what one node says of a command's only invocation.
func (m *matrix) state(t *testing.T, address, id string) string {
	t.Helper()
	var c commandView
	if err := m.json(within(t, 30*time.Second), &c, "commands", "get", id, "-o", "json", "--addr", address); err != nil {
		t.Fatal(err)
	}
	if len(c.Invocations) != 1 {
		t.Fatalf("command %s has %d invocations", id, len(c.Invocations))
	}
	return c.Invocations[0].State
}

// judge wants one of the ends of the cell.
func (m *matrix) judge(t *testing.T, c cell, id string) {
	t.Helper()
	var i invocationView
	await(t, time.Minute, "command "+id+" ends", func() (err error) {
		var v commandView
		if err := m.json(t.Context(), &v, "commands", "get", id, "-o", "json", "--request-timeout", "5s"); err != nil {
			return err
		}
		if v.State != "DONE" || len(v.Invocations) != 1 {
			return fmt.Errorf("it is %s: %v", v.State, v.Invocations)
		}
		i = v.Invocations[0]
		return nil
	})
	m.ended[id] = i.State
	starts := m.starts(t, i.ID)
	good := false
	for _, e := range c.ends {
		good = good || e == cellEnd{i.State, i.Reason, starts}
	}
	if !good {
		t.Errorf("%v after %d starts, want one of %+v", i, starts, c.ends)
	}
	m.judgeEpochs(t, id)
}

// judgeEpochs wants at most one claim of the attempt, and session epochs that only grow.
func (m *matrix) judgeEpochs(t *testing.T, id string) {
	t.Helper()
	api, err := m.stream.client(0)
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	w, err := agentplanev1.NewCommandServiceClient(api).Why(within(t, 30*time.Second), &agentplanev1.WhyRequest{CommandId: id, Agent: "a1"})
	if err != nil {
		t.Fatal(err)
	}
	claims, epoch, index := 0, uint64(0), uint64(0)
	for _, step := range w.GetTransitions() {
		if step.GetState() == agentplanev1.AttemptState_ATTEMPT_STATE_CLAIMED {
			claims++
		}
		if step.GetIndex() < index || step.GetSessionEpoch() != 0 && step.GetSessionEpoch() < epoch {
			t.Errorf("the proof of %s goes back: %v", id, w.GetTransitions())
		}
		index, epoch = step.GetIndex(), max(epoch, step.GetSessionEpoch())
	}
	if claims > 1 {
		t.Errorf("one attempt was claimed %d times: %v", claims, w.GetTransitions())
	}
}
