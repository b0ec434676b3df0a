package operator

import (
	"context"
	"fmt"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

const (
	// clockBound is the distance from the median beyond which a node does not lead.
	clockBound = 30 * time.Second
	// lagBound is how many entries a node may be behind before it is said.
	lagBound = 10_000
)

// Status answers how the cluster is, and for each thing that is wrong the one right
// command.
func (c *Cluster) Status(ctx context.Context, req *agentplanev1.StatusRequest) (*agentplanev1.StatusResponse, error) {
	v, err := c.read(ctx, req.GetStale())
	if err != nil {
		return nil, err
	}
	cfg, row, now := c.o.Raft.Configuration(), v.Cluster(), c.now(v)
	answer := &agentplanev1.StatusResponse{
		ClusterId: row.GetClusterId(), Incarnation: incarnation(row), LeaderId: cfg.Leader,
		LeaderEpoch: row.GetOffice().GetEpoch(), Term: c.o.Raft.Term(), AppliedIndex: v.Index(), Now: now,
		Members: c.members(v, cfg), Voters: uint32(len(cfg.Voters)), FeatureLevel: row.GetFeatureLevel(),
		AnsweredBy: c.o.NodeID, Agents: map[string]uint32{},
	}
	for a := range v.Agents() {
		s, _ := v.Session(a.GetId())
		health, _, _ := Health(a, s, now)
		answer.Agents[health]++
	}
	seen := situation{
		members: answer.Members, leader: cfg.Leader, self: c.o.NodeID, voters: len(cfg.Voters),
		behind: c.o.Behind(), distance: c.o.ClockDistance(),
	}
	answer.Tolerates = uint32(seen.tolerates())
	answer.Problems = seen.problems()
	return answer, nil
}

// situation is what problems are judged by.
type situation struct {
	members  []*agentplanev1.Member
	leader   string
	self     string
	voters   int // of raft's configuration
	behind   map[string]uint64
	distance time.Duration
}

// up counts the voters that are not known to be gone. One that gossip does not know
// counts: gossip may be what is broken.
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

// problems judges; it is pure, so a table tests it.
func (s situation) problems() []*agentplanev1.Problem {
	var all []*agentplanev1.Problem
	add := func(reason, command, format string, args ...any) {
		all = append(all, &agentplanev1.Problem{Reason: reason, What: fmt.Sprintf(format, args...), Command: command})
	}
	if s.leader == "" {
		add("no_leader", "systemctl start agentplane", "there is no leader: %d of %d voters must be up and reach each other, %d seem to be", quorum(s.voters), s.voters, s.up())
	}
	dead := false
	for _, m := range s.members {
		if !gone(m.GetState()) {
			continue
		}
		dead = dead || m.GetVoter()
		command := "agentctl cluster remove " + m.GetName()
		if s.leader == "" {
			command = "systemctl start agentplane" // nothing can be removed without a leader
		}
		add("node_"+m.GetState(), command, "node %q at %s is %s: start it, or remove it when it will not come back", m.GetName(), m.GetAddress(), m.GetState())
	}
	switch {
	case s.voters == 1:
		add("no_margin", addNode, "there is one voter: when it dies, the cluster stops; with three, one may die")
	case s.tolerates() == 0 && s.leader != "":
		add("no_margin", marginCommand(s.members), "%d of %d voters are up, which is what it takes: when one more dies, the cluster stops", s.up(), s.voters)
	}
	if s.voters > 0 && s.voters%2 == 0 && !dead {
		add("even_voters", addNode, "%d voters bear the loss of no more nodes than %d do", s.voters, s.voters-1)
	}
	for _, m := range s.members {
		if m.GetCandidate() && m.GetWaitsFor() != "" && !gone(m.GetState()) {
			add("candidate_waits", addNode, "node %q is no voter yet: %s", m.GetName(), m.GetWaitsFor())
		}
		if n := s.behind[m.GetId()]; n > lagBound && !gone(m.GetState()) {
			add("lagging", "agentctl cluster status", "node %q is %d entries behind: it catches up, or its disk or link is too slow", m.GetName(), n)
		}
	}
	if d := max(s.distance, -s.distance); d > clockBound {
		add("clock", "timedatectl set-ntp true", "the clock of node %q is %v away from the others' (bound %v): it does not lead; set it", s.nameOf(s.self), d.Round(time.Second), clockBound)
	}
	return all
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
