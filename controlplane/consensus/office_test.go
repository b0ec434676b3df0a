package consensus_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/consensus/consensustest"
)

const year = 365 * 24 * time.Hour

// skewed gives each node a wall clock of its own.
func skewed(skews ...time.Duration) func(int, *consensus.Options) {
	return func(i int, o *consensus.Options) {
		o.WallClock = func() time.Time { return time.Now().Add(skews[i%len(skews)]) }
	}
}

func distance(c *consensustest.Cluster, i int) time.Duration {
	return time.Duration(c.Machine(i).Now() - time.Now().UnixNano()).Abs()
}

func TestClusterTimeIgnoresOneClockAYearOff(t *testing.T) {
	for name, skew := range map[string]time.Duration{"ahead": year, "behind": -year} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// With two of three voters the lower clock counts: all three are up.
				c := consensustest.New(t, consensustest.Options{Nodes: 3, Seed: 1, Host: skewed(0, skew, 0)})
				for range 20 { // whoever leads
					put(t, c, "b")
					if l := c.Leader(); c.ID(l) == "node-1" {
						t.Errorf("the node whose clock is a year off leads")
					}
					if l := c.Leader(); distance(c, l) > time.Second {
						t.Fatalf("cluster time is %s from the true time", distance(c, l))
					}
					_ = c.Host(c.Leader()).Transfer(t.Context(), "")
					time.Sleep(time.Second)
					c.WaitLeader()
				}
				if why := c.Host(1).Stats().WhyUnwilling; why != "" && !strings.Contains(why, "median") {
					t.Errorf("node 1 is unwilling because %q", why)
				}
			})
		})
	}
}

func TestNodeWithAWrongClockHandsOverAndStaysQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var skew atomic.Int64
		c := consensustest.New(t, consensustest.Options{Nodes: 3, Seed: 2, Host: func(i int, o *consensus.Options) {
			if i == 0 {
				o.WallClock = func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
			}
		}})
		if l := c.Leader(); l != 0 {
			t.Fatalf("node %d leads, want the founder", l)
		}
		put(t, c, "a")
		skew.Store(int64(time.Hour)) // somebody sets the clock
		time.Sleep(12 * time.Second)
		l := c.WaitLeader()
		if l == 0 {
			t.Fatal("the node whose clock is an hour off still leads")
		}
		term := c.Host(l).Stats().Term
		if why := c.Host(0).Stats().WhyUnwilling; !strings.Contains(why, "median") {
			t.Errorf("it gave up because %q, want its clock", why)
		}
		time.Sleep(time.Minute)
		if got := c.Host(c.WaitLeader()).Stats().Term; got != term {
			t.Errorf("term went from %d to %d: it campaigns again and again", term, got)
		}
		put(t, c, "b")
		if d := distance(c, c.Leader()); d > time.Second {
			t.Errorf("cluster time is %s from the true time", d)
		}
		// Its vote still counts: the other follower dies, and writing goes on.
		c.Kill(3 - l)
		put(t, c, "c")
		skew.Store(0)
		time.Sleep(12 * time.Second)
		if s := c.Host(0).Stats(); !s.Willing {
			t.Errorf("with its clock mended the node is unwilling: %s", s.WhyUnwilling)
		}
		c.Restart(3 - l)
		c.WaitAgree()
		if err := c.Host(l).Transfer(t.Context(), c.ID(0)); err != nil {
			t.Errorf("transfer to the mended node: %v", err)
		}
		if l := c.WaitLeader(); l != 0 {
			t.Errorf("node %d leads after the transfer, want 0", l)
		}
	})
}

// reckoning is the cluster's time as a node's state and its monotonic clock have it.
func reckoning(o *consensus.Options) func() (time.Time, bool) {
	var mu sync.Mutex
	var last int64
	var at time.Time
	return func() (time.Time, bool) {
		mu.Lock()
		defer mu.Unlock()
		if now := o.Machine.Now(); now != last {
			last, at = now, time.Now()
		}
		return time.Unix(0, last).Add(time.Since(at)), last != 0
	}
}

// One of three is down when the leader's clock is set back by an hour. Of two clocks the
// lower one is wrong then, and it is the leader's own.
func TestOfTwoClocksTheOneThatJumpedIsNotBelieved(t *testing.T) {
	for name, jump := range map[string]time.Duration{"back": -time.Hour, "ahead": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var skew atomic.Int64
				c := consensustest.New(t, consensustest.Options{Nodes: 3, Seed: 4, Host: func(i int, o *consensus.Options) {
					o.Reckoned = reckoning(o)
					if i == 0 {
						o.WallClock = func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
					}
				}})
				put(t, c, "a")
				if l := c.WaitLeader(); l != 0 {
					t.Fatalf("node %d leads, want the founder", l)
				}
				c.Kill(2)
				put(t, c, "b")
				skew.Store(int64(jump))
				time.Sleep(12 * time.Second)
				if l := c.WaitLeader(); l != 1 {
					t.Errorf("the node leads whose clock was set %s", name)
				}
				put(t, c, "c")
				if d := distance(c, c.Leader()); d > time.Second {
					t.Errorf("cluster time is %s from the true time", d)
				}
				if why := c.Host(0).Stats().WhyUnwilling; !strings.Contains(why, "median") {
					t.Errorf("it is unwilling because %q, want its clock", why)
				}
				if s := c.Host(1).Stats(); !s.Willing {
					t.Errorf("the node whose clock is right is unwilling: %s", s.WhyUnwilling)
				}
			})
		})
	}
}

func TestClusterTimeWalksOffAYearWithoutStandingStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var skew atomic.Int64
		skew.Store(int64(time.Hour))
		c := consensustest.New(t, consensustest.Options{Nodes: 1, Seed: 3, Host: func(_ int, o *consensus.Options) {
			o.WallClock = func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
		}})
		put(t, c, "a")
		skew.Store(0)
		c.Kill(0)
		c.Restart(0)
		put(t, c, "b")
		first := c.Machine(0).Now()
		time.Sleep(10 * time.Minute)
		put(t, c, "c")
		gone := time.Duration(c.Machine(0).Now() - first)
		if gone < 8*time.Minute || gone > 10*time.Minute {
			t.Errorf("in 10 minutes cluster time advanced by %s, want a tenth less", gone)
		}
		time.Sleep(11 * time.Hour)
		put(t, c, "d")
		if d := distance(c, 0); d > time.Second {
			t.Errorf("after 11 hours cluster time is %s off", d)
		}
	})
}

// offices records which nodes are in office.
type offices struct {
	mu    sync.Mutex
	now   map[int]consensus.Office
	terms map[uint64]int
}

func (o *offices) run(ctx context.Context, i int, office consensus.Office, end func() error) error {
	o.mu.Lock()
	if o.now == nil {
		o.now, o.terms = make(map[int]consensus.Office), make(map[uint64]int)
	}
	o.now[i] = office
	o.terms[office.Term]++
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.now, i)
	}()
	if end != nil {
		return end()
	}
	<-ctx.Done()
	return nil
}

func TestOfficeBeginsAndEndsWithTheTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o offices
		c := consensustest.New(t, consensustest.Options{Nodes: 3, Seed: 4, Host: func(i int, opts *consensus.Options) {
			opts.RunOffice = func(ctx context.Context, office consensus.Office) error { return o.run(ctx, i, office, nil) }
		}})
		for range 10 {
			l := c.WaitLeader()
			put(t, c, "x")
			if err := c.Host(l).Transfer(t.Context(), ""); err != nil {
				t.Logf("transfer: %v", err)
			}
			time.Sleep(2 * time.Second)
			c.WaitLeader()
			o.mu.Lock()
			if len(o.now) != 1 {
				t.Errorf("%d nodes run leader-only loops: %v", len(o.now), o.now)
			}
			for term, n := range o.terms {
				if n != 1 {
					t.Errorf("term %d had %d offices", term, n)
				}
			}
			o.mu.Unlock()
		}
	})
}

func TestNodeStepsDownWhenALeaderOnlyLoopDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o offices
		dies := make(chan struct{})
		c := consensustest.New(t, consensustest.Options{Nodes: 3, Seed: 5, Host: func(i int, opts *consensus.Options) {
			opts.RunOffice = func(ctx context.Context, office consensus.Office) error {
				var end func() error
				if i == 0 {
					end = func() error {
						select {
						case <-dies:
							return errors.New("a bug")
						case <-ctx.Done():
							return nil
						}
					}
				}
				return o.run(ctx, i, office, end)
			}
		}})
		if l := c.Leader(); l != 0 {
			t.Fatalf("node %d leads, want the founder", l)
		}
		close(dies)
		time.Sleep(time.Second)
		if l := c.WaitLeader(); l == 0 {
			t.Error("the node whose loop died still leads")
		}
		put(t, c, "x")
	})
}

func TestNodeThatNobodyRelievesGivesItselfUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gaveUp := make(chan error, 1)
		c := consensustest.New(t, consensustest.Options{
			Nodes: 1,
			Seed:  6,
			Host: func(_ int, opts *consensus.Options) {
				opts.RunOffice = func(ctx context.Context, _ consensus.Office) error {
					select {
					case <-time.After(time.Second):
						return errors.New("a bug")
					case <-ctx.Done():
						return nil
					}
				}
			},
			OnFatal: func(_ int, err error) { gaveUp <- err },
		})
		put(t, c, "x")
		if err := <-gaveUp; !strings.Contains(err.Error(), "a bug") || !errors.Is(err, consensus.ErrNoSuccessor) {
			t.Errorf("fatal error %q, want the loop's and that nobody took over", err)
		}
	})
}

func TestLeaderOnlyLoopThatOutlivesItsTermIsFatal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		gaveUp := make(chan error, 1)
		c := consensustest.New(t, consensustest.Options{
			Nodes: 3,
			Seed:  7,
			Host: func(i int, opts *consensus.Options) {
				if i == 0 {
					opts.RunOffice = func(context.Context, consensus.Office) error { <-release; return nil }
				}
			},
			OnFatal: func(_ int, err error) { gaveUp <- err },
		})
		if err := c.Host(0).Transfer(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		if err := <-gaveUp; !strings.Contains(err.Error(), "go on") {
			t.Errorf("fatal error %q, want that the loops go on", err)
		}
		close(release)
	})
}

func TestMembershipNamesTheConfigurationItWasDecidedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := consensustest.New(t, consensustest.Options{Nodes: 3, Seed: 8})
		l := c.WaitLeader()
		ctx := t.Context()
		_, index := c.Host(l).Configuration()
		if err := c.Host(l).AddNonvoter(ctx, "x", "addr-x", index-1); !errors.Is(err, consensus.ErrConfigurationChanged) {
			t.Errorf("AddNonvoter on an older configuration = %v, want ErrConfigurationChanged", err)
		}
		if err := c.Host(l).Remove(ctx, c.ID(l), index); err == nil {
			t.Error("a leader removed itself")
		}
		follower := (l + 1) % 3
		if err := c.Host(follower).Remove(ctx, c.ID(l), index); !errors.Is(err, consensus.ErrNotLeader) {
			t.Errorf("Remove on a follower = %v, want ErrNotLeader", err)
		}
		if err := c.Host(l).Remove(ctx, c.ID(follower), index); err != nil {
			t.Errorf("Remove = %v", err)
		}
		cfg, _ := c.Host(l).Configuration()
		if len(cfg.Servers) != 2 {
			t.Errorf("configuration after Remove: %v", cfg.Servers)
		}
		// The removed node neither leads nor disturbs.
		term := c.Host(l).Stats().Term
		time.Sleep(5 * time.Second)
		put(t, c, "x")
		if got := c.Host(l).Stats().Term; got != term || c.Leader() != l {
			t.Errorf("the removed node moved the term from %d to %d", term, got)
		}
		if cfg.Servers[0].Suffrage != raft.Voter {
			t.Errorf("configuration after Remove: %v", cfg.Servers)
		}
	})
}
