package consensustest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNetworkKeepsTheOrderOfALink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1, nil)
		n.SetDelay(0, 10*time.Millisecond)
		var mu sync.Mutex
		var got []int
		arrived := func() []int {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(got)
		}
		for i := range 100 {
			if i == 50 {
				n.Pause("b")
			}
			n.send("a", "b", func() {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, i)
			})
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		if n := len(arrived()); n > 50 {
			t.Errorf("%d messages arrived at a paused node", n)
		}
		n.Resume("b")
		time.Sleep(time.Second)
		if all := arrived(); len(all) != 100 || !slices.IsSorted(all) {
			t.Errorf("messages arrived as %v", all)
		}
	})
}

func TestNetworkFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := make(chan raft.ServerAddress, 10)
		n := NewNetwork(1, func(_, dead raft.ServerAddress) { gone <- dead })
		a, b := n.attach("a"), n.attach("b")
		ask := func() error {
			_, err := n.call(a, "b", 0, nil, func(*endpoint) (any, error) { return 1, nil })
			return err
		}
		if err := ask(); err != nil {
			t.Errorf("call: %v", err)
		}
		n.Cut("b", "a", true) // the reply
		if err := ask(); !errors.Is(err, errTimeout) {
			t.Errorf("call without a reply: %v, want a timeout", err)
		}
		n.Heal()
		n.Refuse("b")
		if err := ask(); !errors.Is(err, errRefused) || len(gone) != 1 || <-gone != "b" {
			t.Errorf("call to a node behind a firewall: %v, want that it is refused and b is told gone", err)
		}
		n.Heal()
		n.detach(b)
		time.Sleep(time.Second)
		if len(gone) != 1 || <-gone != "b" {
			t.Errorf("%d notices of a death, want one of b", len(gone))
		}
		if err := ask(); !errors.Is(err, errRefused) {
			t.Errorf("call to a dead node: %v, want that it is refused", err)
		}
	})
}

// complaints counts what a test is told.
type complaints struct {
	testing.TB
	n int
}

func (c *complaints) Errorf(string, ...any) { c.n++ }

func TestJudgeComplains(t *testing.T) {
	disk := NewMemDisk(1)
	if err := disk.Disk().Log.StoreLogs([]*raft.Log{{Index: 1, Term: 1}, {Index: 2, Term: 2}}); err != nil {
		t.Fatal(err)
	}
	entry := func(index, term uint64, data string) func(*judge) {
		return func(j *judge) { j.stored(int(index+term), &raft.Log{Index: index, Term: term, Data: []byte(data)}) }
	}
	vote := func(index, term uint64) func(*judge) {
		return func(j *judge) { j.granted(0, disk, &raft.RequestVoteRequest{LastLogIndex: index, LastLogTerm: term}) }
	}
	for name, c := range map[string]struct {
		steps []func(*judge)
		want  int
	}{
		"the same entry on two nodes":             {[]func(*judge){entry(3, 2, "a"), entry(3, 2, "a")}, 0},
		"another entry of a later term":           {[]func(*judge){entry(3, 2, "a"), entry(3, 3, "b")}, 0},
		"another entry of the same term":          {[]func(*judge){entry(3, 2, "a"), entry(3, 2, "b")}, 1},
		"a vote for a log that ends as the own":   {[]func(*judge){vote(2, 2)}, 0},
		"a vote for a shorter log of later terms": {[]func(*judge){vote(1, 3)}, 0},
		"a vote for a shorter log":                {[]func(*judge){vote(1, 2)}, 1},
		"a vote for a longer log of older terms":  {[]func(*judge){vote(9, 1)}, 1},
	} {
		told := &complaints{TB: t}
		j := newJudge(told)
		for _, step := range c.steps {
			step(j)
		}
		if told.n != c.want {
			t.Errorf("%s: %d complaints, want %d", name, told.n, c.want)
		}
	}
}

func TestPowerCutLosesWhatWasNotSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := NewMemDisk(1)
		d.SetDelay(10 * time.Millisecond)
		log := d.Disk().Log
		if err := log.StoreLogs([]*raft.Log{{Index: 1}, {Index: 2}}); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- log.StoreLogs([]*raft.Log{{Index: 3}, {Index: 4}, {Index: 5}}) }()
		time.Sleep(time.Millisecond)
		ends := make(map[uint64]bool)
		for range 100 {
			last, _ := d.Image(true).Disk().Log.LastIndex()
			ends[last] = true
		}
		if last, _ := d.Image(false).Disk().Log.LastIndex(); last != 2 {
			t.Errorf("after a kill the log ends at %d, want 2", last)
		}
		if len(ends) != 4 || !ends[2] || !ends[5] {
			t.Errorf("after power cuts the log ends at %v, want 2 to 5", ends)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

func TestClusterTellsAKilledNodesAnswersUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(t, Options{Nodes: 1})
		c.Disk(0).SetDelay(time.Second)
		done := make(chan error, 1)
		go func() {
			_, err := c.ProposeOn(t.Context(), 0, Put("a", ""))
			done <- err
		}()
		time.Sleep(100 * time.Millisecond)
		c.Kill(0)
		if err := <-done; err == nil {
			t.Error("a killed node's answer was believed")
		}
		c.Disk(0).SetDelay(0)
		c.Restart(0)
		c.WaitAgree()
		if r := c.Machine(0).(*Ledger).Records(); len(r) != 0 {
			t.Errorf("what was not written is there: %v", fmt.Sprint(r))
		}
	})
}
