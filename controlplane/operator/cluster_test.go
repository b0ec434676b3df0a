package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// three is a cluster of three voters of which the first one leads.
func three(t *testing.T, edit ...func(*Options)) *world {
	w := newWorld(t, edit...)
	w.node("n2", "node-b", true)
	w.node("n3", "node-c", true)
	w.cfg.Voters = []string{"n1", "n2", "n3"}
	w.gossip = map[string]string{"n1": "alive", "n2": "alive", "n3": "alive"}
	return w
}

func TestInfoSaysWhatACommandNeeds(t *testing.T) {
	w := three(t)
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollOperator{EnrollOperator: &raftlogv1.EnrollOperator{Name: "alice", PublicKey: mustKey(t).Public(), Role: "operator"}}})
	w.pass(time.Hour) // and no entry since
	i, err := w.Cluster.Info(t.Context(), &agentplanev1.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if i.GetClusterId() != testCluster || i.GetIncarnation().GetNumber() != 1 || i.GetCaller() != "alice" || i.GetRole() != "operator" || i.GetLeaderId() != "n1" || i.GetVersion() != "1.0" {
		t.Fatalf("info %v", i)
	}
	if i.GetNow() != w.now.UnixNano() {
		t.Fatalf("now is %v, want %v: an idle cluster would refuse every command as expired", time.Unix(0, i.GetNow()), w.now)
	}
	if _, err := client.TrustBundle(i.GetBundle()); err != nil || len(i.GetBundle().GetNodes()) != 3 || i.GetBundle().GetIndex() != w.m.View().Cluster().GetTrustIndex() {
		t.Fatalf("bundle %v: %v", i.GetBundle(), err)
	}
	w.caller = testCaller{kind: "local"}
	if i, err = w.Cluster.Info(t.Context(), nil); err != nil || i.GetCaller() != "local" || i.GetRole() != "admin" {
		t.Fatalf("on the socket: %v, %v", i, err)
	}
}

func TestMembersAreWhatTheStateRaftAndGossipSay(t *testing.T) {
	w := three(t, func(o *Options) { o.WaitsFor = func(id string) Wait { return Wait{Why: "one more than " + id} } })
	w.node("n4", "node-d", true)
	w.node("n5", "node-e", false)
	w.cfg.NonVoters = []string{"n4", "n5"}
	w.gossip = map[string]string{"n1": "suspect", "n2": "dead", "n3": "left", "n4": "alive"}
	r, err := w.Cluster.ListMembers(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range r.GetMembers() {
		got = append(got, fmt.Sprintf("%s %s leader=%v voter=%v candidate=%v %s", m.GetName(), m.GetState(), m.GetLeader(), m.GetVoter(), m.GetCandidate(), m.GetWaitsFor()))
	}
	want := []string{
		"node-a alive leader=true voter=true candidate=false ",
		"node-b dead leader=false voter=true candidate=false ",
		"node-c left leader=false voter=true candidate=false ",
		"node-d alive leader=false voter=false candidate=true one more than n4",
		"node-e unknown leader=false voter=false candidate=false ",
	}
	if !slices.Equal(got, want) {
		t.Fatalf("members\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestRemoveMember(t *testing.T) {
	for _, c := range []struct {
		name    string
		edit    func(*world)
		member  string
		code    codes.Code
		reason  string
		removed []string // from raft
	}{
		{"by name", func(*world) {}, "node-b", codes.OK, "", []string{"n2"}},
		{"by id", func(*world) {}, "n2", codes.OK, "", []string{"n2"}},
		{"one that raft does not count any more", func(w *world) { w.cfg.Voters = []string{"n1", "n3"} }, "n2", codes.OK, "", nil},
		{"a dead one", func(w *world) { w.gossip["n2"] = "dead" }, "n2", codes.OK, "", []string{"n2"}},
		{"a non-voter", func(w *world) { w.cfg.Voters, w.cfg.NonVoters = []string{"n1"}, []string{"n2"} }, "n2", codes.OK, "", []string{"n2"}},
		{"nobody", func(*world) {}, "", codes.InvalidArgument, "no_member", nil},
		{"one that is not there", func(*world) {}, "node-x", codes.NotFound, "no_node", nil},
		{"the last voter", func(w *world) { w.cfg.Voters = []string{"n1"} }, "n1", codes.FailedPrecondition, "last_voter", nil},
		{"a live one while another is dead", func(w *world) { w.gossip["n3"] = "dead" }, "n2", codes.FailedPrecondition, "quorum_would_be_lost", nil},
		{"one while another is being removed", func(w *world) { removeNode(w, "n3") }, "n2", codes.Unavailable, "removal_in_progress", nil},
		{"the one that is being removed", func(w *world) { removeNode(w, "n2") }, "n2", codes.OK, "", []string{"n2"}},
		{"a live one while another was never heard of", func(w *world) { delete(w.gossip, "n3") }, "n2", codes.FailedPrecondition, "quorum_would_be_lost", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := three(t)
			c.edit(w)
			for range 2 { // and once more: nothing changes
				_, err := w.Cluster.RemoveMember(t.Context(), &agentplanev1.RemoveMemberRequest{Member: c.member})
				if c.code != codes.OK {
					wantRefusal(t, err, c.code, c.reason)
				} else if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(w.removed, c.removed) {
					t.Fatalf("raft lost %v, want %v", w.removed, c.removed)
				}
				n, _ := w.m.View().Node("n2")
				if registered(n) != (c.code != codes.OK) {
					t.Fatalf("node n2 is registered: %v", registered(n))
				}
			}
		})
	}
}

func removeNode(w *world, id string) {
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveNode{RemoveNode: &raftlogv1.RemoveNode{NodeId: id}}})
}

// A node with which nobody speaks any more may be counted by raft only while the others are
// a majority without it: a leader that dies then would have no successor.
func TestWhoIsNeededLeavesRaftBeforeTrust(t *testing.T) {
	for _, c := range []struct {
		voters  []string
		trusted bool // when it leaves raft
	}{{[]string{"n1", "n2", "n3"}, false}, {[]string{"n1", "n2"}, true}} {
		w := three(t)
		w.cfg.Voters = c.voters
		left := false
		w.leaving = func(id string) {
			n, _ := w.m.View().Node(id)
			if left = true; registered(n) != c.trusted {
				t.Errorf("of %d voters one is trusted when it leaves raft: %v, want %v", len(c.voters), registered(n), c.trusted)
			}
		}
		if _, err := w.Cluster.RemoveMember(t.Context(), &agentplanev1.RemoveMemberRequest{Member: "n2"}); err != nil || !left {
			t.Fatalf("left raft: %v, %v", left, err)
		}
		if n, _ := w.m.View().Node("n2"); registered(n) {
			t.Error("it is still trusted in the end")
		}
	}
}

func TestALeaderHandsOverBeforeItIsRemoved(t *testing.T) {
	w := three(t)
	w.transfer = func(string) error { w.set(func() { w.cfg.Leader = "n2" }); return nil }
	_, err := w.Cluster.RemoveMember(t.Context(), &agentplanev1.RemoveMemberRequest{Member: "node-a"})
	wantRefusal(t, err, codes.Unavailable, "not_leader")
	if d := agentplanev1.DetailOf(err); d.GetOutcomeUnknown() || d.GetLeaderId() != "n2" || d.GetLeaderAddress() != "node-b:7460" {
		t.Fatalf("detail %v", d)
	}
	if n, _ := w.m.View().Node("n1"); !registered(n) || len(w.removed) != 0 || !slices.Equal(w.transfers, []string{""}) {
		t.Fatalf("removed %v, transfers %v", w.removed, w.transfers)
	}
}

func TestTransferLeadership(t *testing.T) {
	for _, c := range []struct {
		name    string
		to      string
		err     error
		code    codes.Code
		reason  string
		asked   []string
		unknown bool
	}{
		{"to the best", "", nil, codes.OK, "", []string{""}, false},
		{"by name", "node-b", nil, codes.OK, "", []string{"n2"}, false},
		{"to whoever leads already", "n1", nil, codes.OK, "", nil, false},
		{"to a non-voter", "node-d", nil, codes.FailedPrecondition, "not_a_voter", nil, false},
		{"to nobody", "node-x", nil, codes.NotFound, "no_node", nil, false},
		{"nobody can", "", consensus.ErrNoSuccessor, codes.FailedPrecondition, "no_successor", []string{""}, false},
		{"from a node that does not lead", "", consensus.ErrNotLeader, codes.Unavailable, "not_leader", []string{""}, false},
		{"its end is not seen", "", context.DeadlineExceeded, codes.Unavailable, "outcome_unknown", []string{""}, true},
		{"raft fails", "", errors.New("hm"), codes.Unavailable, "outcome_unknown", []string{""}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := three(t)
			w.node("n4", "node-d", true)
			w.transfer = func(string) error {
				if c.err == nil {
					w.apply(0, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_TakeOffice{TakeOffice: &raftlogv1.TakeOffice{NodeId: "n2", Term: 1}}})
				}
				return c.err
			}
			r, err := w.Cluster.TransferLeadership(t.Context(), &agentplanev1.TransferLeadershipRequest{To: c.to})
			if !slices.Equal(w.transfers, c.asked) {
				t.Fatalf("transfers %q, want %q", w.transfers, c.asked)
			}
			if c.code == codes.OK {
				want := "n2"
				if c.to == "n1" {
					want = "n1"
				}
				if err != nil || r.GetLeaderId() != want {
					t.Fatalf("%v, %v, want leader %s", r, err, want)
				}
				return
			}
			wantRefusal(t, err, c.code, c.reason)
			if got := agentplanev1.DetailOf(err).GetOutcomeUnknown(); got != c.unknown {
				t.Fatalf("outcome unknown is %v, want %v", got, c.unknown)
			}
		})
	}
}

func TestProblemsNameTheOneRightCommand(t *testing.T) {
	member := func(name, state string, voter bool) *agentplanev1.Member {
		return &agentplanev1.Member{Id: "id-" + name, Name: name, Address: name + ":7460", State: state, Voter: voter}
	}
	alive := func(n int) []*agentplanev1.Member {
		var all []*agentplanev1.Member
		for i := range n {
			all = append(all, member(string(rune('a'+i)), "alive", true))
		}
		return all
	}
	waiting := member("w", "alive", false)
	waiting.Candidate, waiting.WaitsFor = true, "one more candidate"
	for _, c := range []struct {
		name      string
		s         situation
		tolerates int
		want      []string
	}{
		{"three of three", situation{members: alive(3), leader: "id-a", voters: 3}, 1, nil},
		{"five of five", situation{members: alive(5), leader: "id-a", voters: 5}, 2, nil},
		{"one", situation{members: alive(1), leader: "id-a", voters: 1}, 0, []string{"no_margin: " + addNode}},
		{
			"four",
			situation{members: alive(4), leader: "id-a", voters: 4},
			1,
			[]string{"even_voters: " + addNode},
		},
		{
			"one of three is dead",
			situation{members: append(alive(2), member("z", "dead", true)), leader: "id-a", voters: 3},
			0,
			[]string{"node_dead: systemctl start agentplane  # on z at z:7460", "no_margin: "},
		},
		{
			"two of three are dead",
			situation{members: append(alive(1), member("y", "dead", true), member("z", "left", true)), voters: 3},
			0,
			[]string{
				"no_leader: systemctl start agentplane  # on y at y:7460, z at z:7460",
				"node_dead: systemctl start agentplane  # on y at y:7460", "node_left: systemctl start agentplane  # on z at z:7460",
			},
		},
		{"a dead non-voter", situation{members: append(alive(3), member("z", "dead", false)), leader: "id-a", voters: 3}, 1, []string{"node_dead: systemctl start agentplane  # on z at z:7460"}},
		{
			"two were never heard of",
			situation{members: append(alive(1), member("b", "unknown", true), member("c", "unknown", true)), voters: 3},
			0,
			[]string{
				"no_leader: systemctl start agentplane  # on b at b:7460, c at c:7460",
				"node_unknown: systemctl start agentplane  # on b at b:7460", "node_unknown: systemctl start agentplane  # on c at c:7460",
			},
		},
		{"all are up and nobody leads", situation{members: alive(3), voters: 3}, 1, []string{"no_leader: journalctl -u agentplane -n 50  # on a at a:7460, b at b:7460, c at c:7460"}},
		{"a candidate waits for another", situation{members: append(alive(3), waiting), leader: "id-a", voters: 3, needNode: map[string]bool{"id-w": true}}, 1, []string{"candidate_waits: " + addNode}},
		{"a candidate catches up", situation{members: append(alive(3), waiting), leader: "id-a", voters: 3}, 1, []string{"candidate_waits: agentctl cluster members -o wide"}},
		{
			"a newcomer gossips and is not reached",
			situation{members: append(alive(3), waiting), leader: "id-a", voters: 3, unreached: map[string]string{"id-w": "connection refused"}},
			1,
			[]string{"node_unreachable: systemctl restart agentplane  # on w at w:7460"},
		},
		{
			"one has just gone silent, and gossip has not noticed",
			situation{members: alive(3), leader: "id-a", voters: 3, silent: map[string]time.Duration{"id-b": time.Second, "id-c": silentBound}},
			1,
			[]string{"node_silent: agentctl cluster status --why"},
		},
		{
			"one that is silent is known to be dead",
			situation{members: append(alive(2), member("z", "dead", true)), leader: "id-a", voters: 3, silent: map[string]time.Duration{"id-z": time.Minute}},
			0,
			[]string{"node_dead: systemctl start agentplane  # on z at z:7460", "no_margin: "},
		},
		{
			"agents are in quarantine",
			situation{members: alive(3), leader: "id-a", voters: 3, quarantined: []quarantined{{"web-1", "journal_behind", "put back", true}, {"web-2", "clone", "twice", false}}},
			1,
			[]string{"quarantined: agentctl agents readmit web-1", "quarantined: agentctl tokens create --kind agent"},
		},
		{
			"many agents are in quarantine",
			situation{members: alive(3), leader: "id-a", voters: 3, quarantined: make([]quarantined, maxQuarantined+2)},
			1,
			append(slices.Repeat([]string{"quarantined: agentctl tokens create --kind agent"}, maxQuarantined), "quarantined: agentctl agents list"),
		},
		{
			"one lags",
			situation{members: alive(3), leader: "id-a", voters: 3, behind: map[string]uint64{"id-b": lagBound + 1, "id-c": lagBound}},
			1,
			[]string{"lagging: agentctl cluster status"},
		},
		{"the clock is ahead", situation{members: alive(3), leader: "id-a", voters: 3, distance: time.Minute}, 1, []string{"clock: timedatectl set-ntp true"}},
		{"the clock is behind", situation{members: alive(3), leader: "id-a", voters: 3, distance: -time.Minute}, 1, []string{"clock: timedatectl set-ntp true"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, p := range c.s.problems() {
				got = append(got, p.GetReason()+": "+p.GetCommand())
				if p.GetWhat() == "" || strings.Contains(p.GetWhat(), "%!") {
					t.Errorf("%s says %q", p.GetReason(), p.GetWhat())
				}
			}
			if !slices.Equal(got, c.want) || c.s.tolerates() != c.tolerates {
				t.Fatalf("tolerates %d, problems %q; want %d, %q", c.s.tolerates(), got, c.tolerates, c.want)
			}
		})
	}
}

// TestStatusOfANodeWhoseStateIsEmpty is what is known on a node that was started alone:
// its log is not applied before there is a leader.
func TestStatusOfANodeWhoseStateIsEmpty(t *testing.T) {
	w := newWorld(t, func(o *Options) {
		o.Machine = fsm.New(fsm.Options{})
		o.Read = func(context.Context, bool) (*fsm.View, error) { return o.Machine.View(), nil }
		o.Trusted = func() (string, map[string]string) {
			return testCluster, map[string]string{"n1": "a:7460", "n2": "b:7460", "n3": "c:7460"}
		}
	})
	w.cfg = Configuration{Voters: []string{"n1", "n2", "n3"}}
	w.gossip = map[string]string{"n3": "alive"}
	r, err := w.Cluster.Status(t.Context(), &agentplanev1.StatusRequest{Stale: true})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range r.GetMembers() {
		got = append(got, fmt.Sprintf("%s %s %s", m.GetId(), m.GetAddress(), m.GetState()))
	}
	if want := []string{"n1 a:7460 alive", "n2 b:7460 unknown", "n3 c:7460 alive"}; !slices.Equal(got, want) || r.GetClusterId() != testCluster {
		t.Errorf("members %q of cluster %q, want %q", got, r.GetClusterId(), want)
	}
	p := r.GetProblems()
	if len(p) != 2 || !strings.Contains(p[0].GetWhat(), "2 of 3 voters must be up and reach each other; this node sees 2") || p[1].GetReason() != "node_unknown" {
		t.Errorf("problems %v", p)
	}
}

func TestProblemsSayWhatToDoWithoutALeader(t *testing.T) {
	dead := &agentplanev1.Member{Id: "b", Name: "node-b", Address: "b:7460", State: "dead", Voter: true}
	unheard := &agentplanev1.Member{Id: "c", Address: "c:7460", State: "unknown", Voter: true}
	here := &agentplanev1.Member{Id: "a", Name: "node-a", Address: "a:7460", State: "alive", Voter: true}
	for _, leader := range []string{"", "a"} {
		var what strings.Builder
		for _, p := range (situation{members: []*agentplanev1.Member{here, dead, unheard}, leader: leader, voters: 3}).problems() {
			what.WriteString(p.GetWhat() + "\n")
		}
		removal, moved := strings.Contains(what.String(), "when it will never come back: agentctl cluster remove node-b"), strings.Contains(what.String(), "start it at the old one again (--listen, --advertise)")
		if removal != (leader != "") || moved != (leader == "") || !strings.Contains(what.String(), `node "c" at c:7460 has not been heard of`) {
			t.Errorf("with leader %q: %s", leader, what.String())
		}
	}
}

func TestStatusCountsAgents(t *testing.T) {
	w := fleetWorld(t)
	w.endSession("a3", true)
	r, err := w.Cluster.Status(t.Context(), &agentplanev1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if a := r.GetAgents(); a[Online] != 2 || a[Down] != 1 || a[Left] != 1 || len(a) != 3 || r.GetLeaderEpoch() != w.epoch || r.GetAnsweredBy() != "n1" || r.GetVoters() != 1 {
		t.Fatalf("status %v", r)
	}
}
