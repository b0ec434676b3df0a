package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
	"github.com/agentplane/agentplane/controlplane/pki"
	"github.com/agentplane/agentplane/e2e/oldnode"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// oldLeader is a node's process from an earlier life of the cluster: a copy of n1's data
// directory, taken when n1 was the only voter and n2 had been added. It needs nobody's
// vote. Started at n1's address it leads, in a term above that of today's cluster, and
// sends n2 the entries of its log. raft by itself takes them from whoever has the higher
// term: the node would give up its leader and have its log overwritten (I4, I13).
//
// It shows n1's key and certificate. What refuses it differs from test to test, and each
// of these checks is taken out by a mutant (mutants_test.go).
type oldLeader struct {
	*lab.Lab
	old    *heldNode
	today  []*heldNode // the nodes of today's cluster that live; the first leads
	ours   string      // a token that today's cluster has acknowledged
	theirs string      // a token that only the old leader knows
	term   uint64      // today's
	index  uint64      // that today's leader had applied before the old one came
}

// TestOldLeaderFromADiskImage: today's cluster has seen n1 with more than the copy
// holds, and remembers. The copy announces itself before it leads, is told, and ends.
func TestOldLeaderFromADiskImage(t *testing.T) {
	o := newOldLeader(t, 1, 60)
	if err := o.old.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, 20*time.Second, "the old leader ends by itself", func() error {
		if err := o.untouched(t.Context()); err != nil {
			t.Fatal(err)
		}
		if o.old.Running() {
			return errors.New("it lives")
		}
		return nil
	})
	code, err := o.old.Process.Await(t.Context())
	if err != nil || code == 0 {
		t.Errorf("the old leader ended with %d, %v", code, err)
	}
	log, err := os.ReadFile(o.old.Log)
	if err != nil || !strings.Contains(string(log), "a disk image was put back; join again with an empty data directory") {
		t.Errorf("the old leader does not say why it ended (%v); see %s", err, o.old.Log)
	}
	o.whole(t)
}

// TestOldLeaderOfAnotherIncarnation: the copy has lived on and has more of everything
// than n1 ever had, but it is of another incarnation, which the preface tells.
func TestOldLeaderOfAnotherIncarnation(t *testing.T) {
	o := newOldLeader(t, 60, 1)
	// In life recovery would have changed the survivors. That the copy is changed in
	// their place makes no difference to who meets whom.
	path := filepath.Join(o.old.DataDir, "boot.state")
	boot, err := pki.LoadBootState(path)
	if err != nil {
		t.Fatal(err)
	}
	boot.Bundle.Incarnation.ID = strings.Repeat("0", len(boot.Bundle.Incarnation.ID))
	if err := boot.Store(path); err != nil {
		t.Fatal(err)
	}
	o.comes(t)
	o.refused(t, 5, "raft connection refused", "lives in another incarnation")
	o.whole(t)
	today, err := o.today[0].status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if told := o.asksForVotes(t, &oldnode.Caller{Boot: boot, To: today.AnsweredBy}); !strings.Contains(told, "lives in another incarnation") {
		t.Errorf("n2 said %q to who asked for its vote, want what is wrong with it", told)
	}
}

// TestOldLeaderOfAWipedCluster: n2 was wiped and is today's cluster by itself, at the
// address that it had. Its identity is another one, so the old leader does not talk to
// it; one that would is not listened to.
func TestOldLeaderOfAWipedCluster(t *testing.T) {
	o, _, _, address := newCopy(t, 60)
	again := o.Node("n2-again", "--raft-profile", "wan", "--log-level", "debug", "--listen", address)
	if err := again.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := again.Address(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	if out := o.CtlAs(within(t, 30*time.Second), "today.yaml", "cluster", "init", "--data-dir", again.DataDir); out.Err() != nil {
		t.Fatal(out.Err())
	}
	o.today = holdAs(t, o.Lab, "today.yaml", []*lab.Node{again})
	o.ours = write(t, o.today[0])
	s, err := o.today[0].status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o.term, o.index = s.Term, s.AppliedIndex
	o.comes(t)
	o.refused(t, 5, "handshake refused", "remote error") // it hangs up
	boot, err := pki.LoadBootState(filepath.Join(o.old.DataDir, "boot.state"))
	if err != nil {
		t.Fatal(err)
	}
	if told := o.asksForVotes(t, &oldnode.Caller{Boot: boot, To: s.AnsweredBy, Credulous: true}); told != "" {
		t.Errorf("another cluster's node was told %q: it got as far as the preface", told)
	}
	o.refused(t, 1, "handshake refused", "belongs to another cluster")
	o.whole(t)
}

// TestOldLeaderThatWasRemoved: n1 was removed from today's cluster. The copy does not
// get as far as the preface.
func TestOldLeaderThatWasRemoved(t *testing.T) {
	o := newOldLeader(t, 60, 1)
	if out := o.Ctl(within(t, 30*time.Second), "cluster", "remove", "n1", "--yes"); out.Err() != nil {
		t.Fatal(out.Err())
	}
	// The operator's certificate was n1's; agentctl renews it.
	if out := o.Ctl(within(t, 30*time.Second), "cluster", "members"); out.Err() != nil {
		t.Fatal(out.Err())
	}
	o.today = holdAll(t, o.Lab, []*lab.Node{o.today[0].Node, o.today[1].Node})
	o.comes(t)
	o.refused(t, 5, "handshake refused", "has no such node")
	o.whole(t)
}

// overToday are flags of today's nodes: an election by accident would look like what
// these tests look for.
var overToday = []string{"--raft-profile", "wan", "--log-level", "debug"}

// newCopy makes the copy, which lives on by itself until it has a high term, and writes
// tokens. It and both nodes are stopped then; address is n2's.
func newCopy(t *testing.T, theirs int) (o *oldLeader, n1, n2 *lab.Node, address string) {
	t.Helper()
	t.Parallel() // these tests wait most of the time
	o = &oldLeader{Lab: newLab(t)}
	nodes, err := o.Cluster(within(t, time.Minute), three[:2], overToday...)
	if err != nil {
		t.Fatal(err)
	}
	n1, n2 = nodes[0], nodes[1]
	if address, err = n2.Address(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.copyOf(t, n1, n2)
	const terms = 6 // each start is one
	for i := range terms {
		o.startOld(t)
		if i == terms-1 {
			for range theirs {
				o.theirs = write(t, o.old)
			}
		}
		if err := o.old.Stop(20 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	return o, n1, n2, address
}

// newOldLeader makes the copy; then n1, n2 and n3 become today's cluster, which writes
// tokens too. At the end n2 leads, and n1 is dead.
func newOldLeader(t *testing.T, theirs, ours int) *oldLeader {
	t.Helper()
	o, n1, n2, _ := newCopy(t, theirs)
	n3 := o.Node("n3", overToday...)
	for _, n := range []*lab.Node{n1, n2, n3} {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Address(within(t, 10*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	first, err := n1.Address(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if out := o.Ctl(within(t, 30*time.Second), "cluster", "join", first, "--token", mustToken(t, o.Lab, "node"), "--data-dir", n3.DataDir); out.Err() != nil {
		t.Fatal(out.Err())
	}
	voters(t, o.Lab, len(three))
	held := holdAll(t, o.Lab, []*lab.Node{n1, n2, n3})
	o.today = held[1:]
	for range ours {
		o.ours = write(t, held[0])
	}
	to := &agentplanev1.TransferLeadershipRequest{To: "n2"}
	if _, err := agentplanev1.NewClusterServiceClient(held[0].conns[0]).TransferLeadership(within(t, 20*time.Second), to); err != nil {
		t.Fatal(err)
	}
	// From here on n2 asks n1 what it holds, and remembers. It may need one of the
	// others only, so it is waited for until it has.
	await(t, 30*time.Second, "n2 leads and remembers what n1 held", func() error {
		s, err := o.today[0].status(t.Context())
		if err != nil {
			return err
		}
		boot, err := pki.LoadBootState(filepath.Join(n2.DataDir, "boot.state"))
		if err != nil {
			return err
		}
		o.term, o.index = s.Term, s.AppliedIndex
		for id, m := range boot.Peers {
			if node, _ := boot.Bundle.Node(id); slices.Contains(node.Addresses, first) && m.Index+10 > s.AppliedIndex && s.LeaderId == s.AnsweredBy {
				return nil
			}
		}
		return fmt.Errorf("leader %q, term %d, index %d, remembered: %+v", s.LeaderId, s.Term, s.AppliedIndex, boot.Peers)
	})
	if !n1.Kill() {
		t.Fatal("n1 was not alive")
	}
	return o
}

// copyOf makes the copy and leaves both nodes stopped.
func (o *oldLeader) copyOf(t *testing.T, n1, n2 *lab.Node) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(n1.DataDir, "addresses.json"))
	if err != nil {
		t.Fatal(err)
	}
	var bound struct{ Advertise, GossipListen string }
	if err := json.Unmarshal(b, &bound); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*lab.Node{n2, n1} {
		if err := n.Stop(20 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	// The same addresses at each of its starts: another one would be an entry.
	node := o.Node("old", "--name", "n1", "--raft-profile", "lan-fast", "--log-level", "debug", "--listen", bound.Advertise, "--gossip-listen", bound.GossipListen)
	o.old = &heldNode{Node: node, port: portOf(bound.Advertise)}
	if err := os.Remove(filepath.Join(n1.DataDir, "admin.sock")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.CopyFS(node.DataDir, os.DirFS(n1.DataDir)); err != nil {
		t.Fatal(err)
	}
	private(t, node.DataDir)
}

// startOld starts the copy and waits until it leads its cluster of one.
func (o *oldLeader) startOld(t *testing.T) {
	t.Helper()
	if err := o.old.Start(); err != nil {
		t.Fatal(err)
	}
	if address, err := o.old.Address(within(t, 10*time.Second)); err != nil || portOf(address) != o.old.port {
		t.Fatalf("the old leader listens at %s, want port %d (%v)", address, o.old.port, err)
	}
	if o.old.conns == nil { // they trust the bundle of that time, in which n1 is
		o.old.conns = holdAll(t, o.Lab, []*lab.Node{o.old.Node})[0].conns
	}
	await(t, 20*time.Second, "the old leader leads", func() error {
		s, err := o.old.status(t.Context())
		if err == nil && s.LeaderId != s.AnsweredBy {
			err = fmt.Errorf("leader %q, term %d", s.LeaderId, s.Term)
		}
		return err
	})
}

// comes starts the copy beside today's cluster.
func (o *oldLeader) comes(t *testing.T) {
	t.Helper()
	o.startOld(t)
	s, err := o.old.status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("today's cluster is in term %d at index %d, the old leader in term %d at index %d", o.term, o.index, s.Term, s.AppliedIndex)
	if s.Term <= o.term {
		t.Fatalf("void: the old leader is in term %d and the cluster in %d: raft itself would refuse it", s.Term, o.term)
	}
}

// refused waits until today's leader has refused the old leader, which goes on and on, with these
// words so many times.
func (o *oldLeader) refused(t *testing.T, least int, words ...string) {
	t.Helper()
	await(t, 20*time.Second, "today's leader refuses the old one and says why", func() error {
		if err := o.untouched(t.Context()); err != nil {
			t.Fatal(err)
		}
		log, err := os.ReadFile(o.today[0].Log)
		if err != nil {
			return err
		}
		times := 0
		for line := range strings.Lines(string(log)) {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
				times++
			}
		}
		if times < least {
			return fmt.Errorf("%d times %q in %s", times, words, o.today[0].Log)
		}
		return nil
	})
	if _, err := o.old.status(t.Context()); err != nil {
		t.Errorf("the old leader does not live any more: %v", err)
	}
}

// whole checks that today's cluster has lost nothing, has learned nothing from the old
// leader, and did not even hold an election.
func (o *oldLeader) whole(t *testing.T) {
	t.Helper()
	last := write(t, o.today[0])
	for _, n := range o.today {
		list, err := agentplanev1.NewTokenServiceClient(n.conns[0]).ListTokens(within(t, 10*time.Second), &agentplanev1.ListTokensRequest{})
		if err != nil {
			t.Fatal(err)
		}
		has := func(id string) bool {
			return slices.ContainsFunc(list.Tokens, func(t *agentplanev1.Token) bool { return t.Id == id })
		}
		if !has(o.ours) || !has(last) || has(o.theirs) {
			t.Errorf("%s: has what was acknowledged before %v and after %v, and what only the old leader knew %v", n.Name, has(o.ours), has(last), has(o.theirs))
		}
	}
	if err := o.untouched(t.Context()); err != nil {
		t.Error(err)
	}
}

// untouched says how a node of today has been moved.
func (o *oldLeader) untouched(ctx context.Context) error {
	for _, n := range o.today {
		s, err := n.status(ctx)
		if err != nil {
			return fmt.Errorf("%s does not answer any more: %w; see %s", n.Name, err, n.Log)
		}
		if s.Term != o.term {
			return fmt.Errorf("the old leader has moved %s from term %d to term %d", n.Name, o.term, s.Term)
		}
		if s.AppliedIndex > o.index+20 {
			return fmt.Errorf("the old leader has moved %s from index %d to %d", n.Name, o.index, s.AppliedIndex)
		}
	}
	return nil
}

// asksForVotes asks today's leader for its vote with the old leader's key, and answers what
// the caller was told.
func (o *oldLeader) asksForVotes(t *testing.T, caller *oldnode.Caller) string {
	t.Helper()
	self, err := o.old.status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	caller.Dir, caller.From, caller.Dial = o.old.DataDir, self.AnsweredBy, new(net.Dialer).DialContext
	caller.Number = uint32(caller.Boot.Bundle.Incarnation.Number)
	reply, err := caller.AsksForVote(raft.ServerAddress(fmt.Sprintf("127.0.0.1:%d", o.today[0].port)), 5*time.Second)
	if err == nil {
		t.Errorf("an old leader's request for a vote was answered: %+v", reply)
	}
	if err := o.untouched(t.Context()); err != nil {
		t.Error(err)
	}
	return caller.Told
}
