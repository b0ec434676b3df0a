package operator

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

const (
	// clockBound is the distance from the median beyond which a node does not lead.
	clockBound = 30 * time.Second
	// lagBound is how many entries a node may be behind before it is said.
	lagBound = 10_000
	// silentBound is how long a node may be without a connection before it is said; it
	// takes gossip some seconds to call one dead.
	silentBound = 300 * time.Millisecond
)

// maxQuarantined is how many agents in quarantine are named one by one.
const maxQuarantined = 5

// Status answers how the cluster is, and for each thing that is wrong the one right
// command.
func (c *Cluster) Status(ctx context.Context, req *agentplanev1.StatusRequest) (*agentplanev1.StatusResponse, error) {
	v, err := c.read(ctx, req.GetStale())
	if err != nil {
		return nil, err
	}
	cfg, row, now := c.o.Raft.Configuration(), v.Cluster(), c.now(v)
	trusted, _ := c.o.Trusted()
	answer := &agentplanev1.StatusResponse{
		ClusterId: cmp.Or(row.GetClusterId(), trusted), Incarnation: incarnation(row), LeaderId: cfg.Leader,
		LeaderEpoch: row.GetOffice().GetEpoch(), Term: c.o.Raft.Term(), AppliedIndex: v.Index(), Now: now,
		Members: c.members(v, cfg), Voters: uint32(len(cfg.Voters)), FeatureLevel: row.GetFeatureLevel(),
		AnsweredBy: c.o.NodeID, Agents: map[string]uint32{}, Process: c.o.Process(),
	}
	seen := situation{
		members: answer.Members, leader: cfg.Leader, self: c.o.NodeID, voters: len(cfg.Voters),
		behind: c.o.Behind(), unreached: c.o.Unreached(), silent: c.o.Silent(), needNode: make(map[string]bool), distance: c.o.ClockDistance(),
	}
	for _, m := range answer.Members {
		if m.GetCandidate() && c.o.WaitsFor(m.GetId()).Node {
			seen.needNode[m.GetId()] = true
		}
	}
	for a := range v.Agents() {
		s, _ := v.Session(a.GetId())
		health, reason, detail := Health(a, s, now)
		answer.Agents[health]++
		if health == Quarantined {
			seen.quarantined = append(seen.quarantined, quarantined{a.GetName(), reason, detail, len(a.GetPublicKey()) > 0})
		}
	}
	answer.Tolerates = uint32(seen.tolerates())
	answer.Problems = seen.problems()
	return answer, nil
}

// situation is what problems are judged by.
type situation struct {
	members     []*agentplanev1.Member
	leader      string
	self        string
	voters      int // of raft's configuration
	behind      map[string]uint64
	unreached   map[string]string
	silent      map[string]time.Duration
	needNode    map[string]bool // candidates that wait for one more node
	distance    time.Duration
	quarantined []quarantined
}

// quarantined is an agent that is, and whether it still has its key.
type quarantined struct {
	name, reason, detail string
	keyed                bool
}

// up counts the voters of which this node has seen a sign of life, itself included.
func (s situation) up() int {
	up := s.voters
	for _, m := range s.members {
		if m.GetVoter() && gone(m.GetState()) {
			up--
		}
	}
	return up
}

// tolerates is how many voters may die before the cluster stops.
func (s situation) tolerates() int { return max(0, s.up()-quorum(s.voters)) }

const addNode = "agentctl tokens create --kind node"

// onHost is a command to type on the hosts of the members.
func onHost(command string, members ...*agentplanev1.Member) string {
	var hosts []string
	for _, m := range members {
		hosts = append(hosts, fmt.Sprintf("%s at %s", cmp.Or(m.GetName(), m.GetId()), m.GetAddress()))
	}
	return command + "  # on " + strings.Join(hosts, ", ")
}

const startNode = "systemctl start agentplane"

// problems judges; it is pure, so a table tests it.
func (s situation) problems() []*agentplanev1.Problem {
	var all problems
	if s.leader == "" {
		s.noLeader(&all)
	}
	dead := false
	for _, m := range s.members {
		if gone(m.GetState()) {
			dead = dead || m.GetVoter()
			s.goneMember(&all, m)
		}
	}
	switch {
	case s.voters == 1:
		all.add("no_margin", addNode, "there is one voter: when it dies, the cluster stops; with three, one may die")
	case s.tolerates() == 0 && s.leader != "":
		all.add("no_margin", marginCommand(s.members), "%d of %d voters are up, which is what it takes: when one more dies, the cluster stops", s.up(), s.voters)
	}
	if s.voters > 0 && s.voters%2 == 0 && !dead {
		all.add("even_voters", addNode, "%d voters bear the loss of no more nodes than %d do", s.voters, s.voters-1)
	}
	for _, m := range s.members {
		if !gone(m.GetState()) {
			s.liveMember(&all, m)
		}
	}
	if d := max(s.distance, -s.distance); d > clockBound {
		all.add("clock", "timedatectl set-ntp true", "the clock of node %q is %v away from the others' (bound %v): it does not lead; set it", s.nameOf(s.self), d.Round(time.Second), clockBound)
	}
	for i, q := range s.quarantined {
		switch {
		case i == maxQuarantined:
			all.add("quarantined", "agentctl agents list", "%d more agents are in quarantine", len(s.quarantined)-i)
			return all
		case q.keyed:
			all.add("quarantined", "agentctl agents readmit "+q.name, "agent %q is in quarantine (%s) and gets no work: %s", q.name, q.reason, q.detail)
		default:
			all.add("quarantined", "agentctl tokens create --kind agent", "agent %q is in quarantine (%s): %s", q.name, q.reason, q.detail)
		}
	}
	return all
}

type problems []*agentplanev1.Problem

func (p *problems) add(reason, command, format string, args ...any) {
	*p = append(*p, &agentplanev1.Problem{Reason: reason, What: fmt.Sprintf(format, args...), Command: command})
}

func (s situation) noLeader(all *problems) {
	var missing, present []*agentplanev1.Member
	for _, m := range s.members {
		switch {
		case m.GetVoter() && gone(m.GetState()):
			missing = append(missing, m)
		case m.GetVoter():
			present = append(present, m)
		}
	}
	switch {
	case s.up() < quorum(s.voters):
		all.add("no_leader", onHost(startNode, missing...), "there is no leader: %d of %d voters must be up and reach each other; this node sees %d",
			quorum(s.voters), s.voters, s.up())
	default:
		all.add("no_leader", onHost("journalctl -u agentplane -n 50", present...), "there is no leader: %d of %d voters must be up and reach each other; this node sees %d: what keeps them from electing one stands in their logs, unless an election is going on",
			quorum(s.voters), s.voters, s.up())
	}
}

// goneMember is about a node of which there is no sign of life.
func (s situation) goneMember(all *problems, m *agentplanev1.Member) {
	what := map[string]string{
		"dead": "is dead", "left": "was stopped in order", "unknown": "has not been heard of since this node started",
	}[m.GetState()]
	then := fmt.Sprintf("; only when it will never come back: agentctl cluster remove %s", cmp.Or(m.GetName(), m.GetId()))
	if s.leader == "" {
		then = "" // nothing can be removed without a leader
	}
	if s.leader == "" && m.GetState() == "unknown" {
		then = "; if it runs and its address has changed, start it at the old one again (--listen, --advertise): while there is no leader nobody learns another"
	}
	all.add("node_"+m.GetState(), onHost(startNode, m), "node %q at %s %s: start it again%s", cmp.Or(m.GetName(), m.GetId()), m.GetAddress(), what, then)
}

func (s situation) liveMember(all *problems, m *agentplanev1.Member) {
	if why := s.unreached[m.GetId()]; why != "" {
		all.add("node_unreachable", onHost("systemctl restart agentplane", m),
			"node %q gossips, and this node cannot reach it at the address that it advertises, %s: %s: mend its --advertise or what blocks the way, then restart it; or take it out: agentctl cluster remove %s",
			m.GetName(), m.GetAddress(), why, m.GetName())
	} else if d := s.silent[m.GetId()]; d > silentBound || m.GetState() == "suspect" {
		heard := "does not answer"
		if d > silentBound {
			heard = fmt.Sprintf("has not been heard of for %v", d.Round(100*time.Millisecond))
		}
		all.add("node_silent", "agentctl cluster status --why", "node %q at %s %s: its process or its link may be gone; look again in some seconds, when that is known",
			cmp.Or(m.GetName(), m.GetId()), m.GetAddress(), heard)
	} else if m.GetCandidate() && m.GetWaitsFor() != "" {
		command := "agentctl cluster members -o wide" // it goes on by itself
		if s.needNode[m.GetId()] {
			command = addNode
		}
		all.add("candidate_waits", command, "node %q is no voter yet and waits: %s", m.GetName(), m.GetWaitsFor())
	}
	if n := s.behind[m.GetId()]; n > lagBound {
		all.add("lagging", "agentctl cluster status", "node %q is %d entries behind: it catches up, or its disk or link is too slow", m.GetName(), n)
	}
}

// marginCommand adds a node, unless a voter is gone: starting that one again is what
// is called for, and said beside it.
func marginCommand(members []*agentplanev1.Member) string {
	for _, m := range members {
		if m.GetVoter() && gone(m.GetState()) {
			return ""
		}
	}
	return addNode
}

func (s situation) nameOf(id string) string {
	for _, m := range s.members {
		if m.GetId() == id {
			return m.GetName()
		}
	}
	return id
}
