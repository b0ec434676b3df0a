package gossip

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestFiveNodesFindEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		nodes := c.startN(5)
		for _, n := range nodes {
			got := n.member("n3")
			want := Member{
				ID: "n3", Addr: "10.0.0.3:7461", State: StateAlive, Since: got.Since,
				Meta: Meta{Name: "host-n3", APIAddr: "10.0.0.3:7460", Version: "1.2.3", FeatureLevel: 7, Incarnation: 1},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("n3 as %s sees it (-want +got):\n%s", n.opts.NodeID, diff)
			}
			if got := n.AdvertiseAddr(); got != n.addr {
				t.Errorf("AdvertiseAddr() = %q, want %q", got, n.addr)
			}
		}
		time.Sleep(2 * time.Minute)
		if !allSee(nodes, StateAlive, ids(5)...) {
			t.Error("somebody was not alive after two quiet minutes")
		}
		for _, n := range nodes {
			if log := n.log.String(); strings.Contains(log, "WARN") || strings.Contains(log, observerFrom) {
				t.Errorf("%s has warnings, or talks about its own looks, after two quiet minutes:\n%s", n.opts.NodeID, log)
			}
		}
	})
}

func TestCrashedNodeIsSuspectThenDeadOnAll(t *testing.T) {
	for name, crash := range map[string]func(*cluster, []*node){
		"process ends": func(_ *cluster, nodes []*node) { nodes[2].stop() },
		"host vanishes": func(c *cluster, nodes []*node) {
			c.net.Partition([]string{nodeAddr(3)}, []string{nodeAddr(1), nodeAddr(2), nodeAddr(4), nodeAddr(5)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 2)
				nodes := c.startN(5)
				rest := []*node{nodes[0], nodes[1], nodes[3], nodes[4]}
				var seen []*history
				for _, n := range rest {
					seen = append(seen, c.record(n, "n3"))
				}
				crash(c, nodes)
				// A round of probes (4 × 0.5 s) and the longest suspicion (8 s), and a little.
				took := c.within(11*time.Second, "n3 is dead on all", func() bool { return allSee(rest, StateDead, "n3") })
				if took < 2*time.Second {
					t.Errorf("dead after %v, which leaves no time to speak against it", took)
				}
				synctest.Wait()
				for i, h := range seen {
					if diff := cmp.Diff([]State{StateAlive, StateSuspect, StateDead}, h.all()); diff != "" {
						t.Errorf("states that %s saw (-want +got):\n%s", rest[i].opts.NodeID, diff)
					}
				}
				time.Sleep(time.Minute) // memberlist has forgotten it
				if !allSee(rest, StateDead, "n3") || !allSee(rest, StateAlive, "n1", "n2", "n4", "n5") {
					t.Error("the picture changed later")
				}
			})
		})
	}
}

func TestNodeThatLeavesIsLeftNotDead(t *testing.T) {
	for name, loss := range map[string]float64{"on a good network": 0, "with 40 % of packets lost": 0.4, "with all packets lost": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 3)
				nodes := c.startN(5)
				c.net.SetLoss(loss)
				begin := time.Now()
				if err := nodes[4].Leave(t.Context()); err != nil {
					t.Fatalf("Leave() = %v", err)
				}
				if took := time.Since(begin); took > 3*time.Second {
					t.Errorf("Leave took %v, want at most 3s", took)
				}
				if err := nodes[4].Leave(t.Context()); err != nil {
					t.Errorf("second Leave() = %v", err)
				}
				if _, err := nodes[4].Join(t.Context(), []string{nodeAddr(1)}); !errors.Is(err, ErrClosed) {
					t.Errorf("Join after Leave = %v, want ErrClosed", err)
				}
				if err := nodes[4].SetMeta(Meta{}); !errors.Is(err, ErrClosed) {
					t.Errorf("SetMeta after Leave = %v, want ErrClosed", err)
				}
				nodes[4].stop()
				c.within(time.Second, "n5 is left on all", func() bool { return allSee(nodes[:4], StateLeft, "n5") })
				c.net.SetLoss(0)
				time.Sleep(time.Minute) // memberlist has forgotten it
				if !allSee(nodes[:4], StateLeft, "n5") {
					t.Error("it did not stay left")
				}
			})
		})
	}
}

func TestLeaveIsBoundedWhenNobodyHears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 4)
		nodes := c.startN(3)
		c.net.Partition([]string{nodeAddr(3)}, []string{nodeAddr(1), nodeAddr(2)})
		begin := time.Now()
		_ = nodes[2].Leave(t.Context()) // packets count as sent: it may say nil
		if took := time.Since(begin); took > nodes[2].timing.LeaveTimeout {
			t.Errorf("Leave took %v, want at most %v", took, nodes[2].timing.LeaveTimeout)
		}
		nodes[2].stop()
		c.within(11*time.Second, "n3 is dead", func() bool { return allSee(nodes[:2], StateDead, "n3") })
	})
}

func TestNothingWaitsForALeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 4)
		nodes := c.startN(3)
		c.net.Partition([]string{nodeAddr(3)}, []string{nodeAddr(1), nodeAddr(2)})
		left := make(chan struct{})
		go func() {
			defer close(left)
			_ = nodes[2].Leave(t.Context())
		}()
		synctest.Wait()
		begin := time.Now()
		if err := nodes[2].SetMeta(Meta{}); !errors.Is(err, ErrClosed) {
			t.Errorf("SetMeta() of a pool that leaves = %v, want ErrClosed", err)
		}
		if took := time.Since(begin); took > 0 {
			t.Errorf("SetMeta waited %v for the leave", took)
		}
		<-left
		nodes[2].stop()
	})
}

func TestPartitionHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 5)
		nodes := c.startN(5)
		left, right := nodes[:2], nodes[2:]
		c.net.Partition([]string{nodeAddr(1), nodeAddr(2)}, []string{nodeAddr(3), nodeAddr(4), nodeAddr(5)})
		c.within(15*time.Second, "the halves call each other dead", func() bool {
			return allSee(left, StateDead, "n3", "n4", "n5") && allSee(right, StateDead, "n1", "n2")
		})
		time.Sleep(2 * time.Minute) // memberlist has long forgotten the others
		c.net.Heal()
		c.within(time.Minute, "all see all again", func() bool { return allSee(nodes, StateAlive, ids(5)...) })
	})
}

func TestCutLinkBetweenTwoKillsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 6)
		nodes := c.startN(5)
		var seen []*history
		for _, n := range nodes {
			seen = append(seen, c.record(n, "n1"), c.record(n, "n2"))
		}
		c.net.Cut(nodeAddr(1), nodeAddr(2)) // one way
		time.Sleep(90 * time.Second)
		for _, h := range seen {
			if slices.ContainsFunc(h.all(), State.Gone) {
				t.Fatalf("a member that three others reach was called gone: %v", h.all())
			}
		}
	})
}

func TestHeavyLossKillsNobodyForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 7)
		nodes := c.startN(5)
		c.net.SetLoss(0.3)
		time.Sleep(2 * time.Minute)
		c.net.SetLoss(0)
		c.within(time.Minute, "all see all alive", func() bool { return allSee(nodes, StateAlive, ids(5)...) })
		if _, dropped := c.net.Counts(); dropped < 500 {
			t.Errorf("only %d packets were lost: the test is void", dropped)
		}
	})
}

func TestWrongKeyIsSaidOnBothSides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 8)
		a := c.start(1)
		b := c.start(2, func(o *Options) { o.Keys, o.Peers = [][]byte{key2}, nil })
		if n, err := b.Join(t.Context(), []string{nodeAddr(1)}); n != 0 || !errors.Is(err, ErrWrongKey) || !strings.Contains(err.Error(), nodeAddr(1)) {
			t.Errorf("Join = %d, %v, want 0 and ErrWrongKey that names the address", n, err)
		}
		time.Sleep(time.Minute)
		if len(a.Members()) != 1 || len(b.Members()) != 1 {
			t.Errorf("members: %v and %v, want each alone", a.Members(), b.Members())
		}
		if !strings.Contains(a.log.String(), "[WARN]  memberlist: failed to receive: no installed keys could decrypt the message") {
			t.Errorf("the node that was called did not say it:\n%s", a.log)
		}
		for _, n := range []*node{a, b} {
			if strings.Contains(n.log.String(), string(key1)) || strings.Contains(n.log.String(), string(key2)) {
				t.Error("a key is in the log")
			}
		}
	})
}

func TestWrongLabelIsSaidOnBothSides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 9)
		a := c.start(1)
		b := c.start(2, func(o *Options) { o.Label, o.Peers = "cluster-b", nil })
		n, err := b.Join(t.Context(), []string{nodeAddr(1)})
		if n != 0 || err == nil || !strings.Contains(err.Error(), `of another cluster than "cluster-b"`) {
			t.Errorf("Join = %d, %v, want an error that speaks of another cluster", n, err)
		}
		time.Sleep(time.Minute)
		if len(a.Members()) != 1 || len(b.Members()) != 1 {
			t.Errorf("members: %v and %v, want each alone", a.Members(), b.Members())
		}
		if !strings.Contains(a.log.String(), `unacceptable label "cluster-b"`) {
			t.Errorf("the node that was called did not say it:\n%s", a.log)
		}
	})
}

func TestMetadataSpreads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 10)
		nodes := c.startN(5)
		want := Meta{Name: "new", APIAddr: "10.9.9.9:1", Version: "2.0.0", FeatureLevel: 8, Incarnation: 2, Draining: true}
		if err := nodes[1].SetMeta(want); err != nil {
			t.Fatalf("SetMeta() = %v", err)
		}
		if got := nodes[1].member("n2").Meta; got != want {
			t.Errorf("own member right after SetMeta = %+v, want %+v", got, want)
		}
		took := c.within(5*time.Second, "all know", func() bool {
			for _, n := range nodes {
				if n.member("n2").Meta != want {
					return false
				}
			}
			return true
		})
		t.Logf("spread in %v", took)
		if err := nodes[1].SetMeta(Meta{Name: strings.Repeat("x", 129)}); err == nil {
			t.Error("SetMeta accepted a name of 129 bytes")
		}
	})
}

func TestNodeComesBackAtNewAddress(t *testing.T) {
	for name, pause := range map[string]time.Duration{
		"before it is dead": 0, "as it dies": 3 * time.Second, "when it is dead": 20 * time.Second, "when it is forgotten": 50 * time.Second,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 11)
				nodes := c.startN(5)
				nodes[2].stop()
				time.Sleep(pause)
				nodes[2] = c.startAt(3, "10.0.1.33:7461")
				c.within(25*time.Second, "all see n3 alive at its new address", func() bool {
					for _, n := range nodes {
						if m := n.member("n3"); m.State != StateAlive || m.Addr != "10.0.1.33:7461" {
							return false
						}
					}
					return allSee(nodes, StateAlive, ids(5)...)
				})
				time.Sleep(30 * time.Second)
				if !allSee(nodes, StateAlive, ids(5)...) {
					t.Error("it did not last")
				}
			})
		})
	}
}

// Nobody repeats to n1 where n3 is now: n3 has told it once, when n1 still
// believed in the old address.
func TestMoveBeforeDeathIsFollowedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 14)
		quiet := func(o *Options) {
			o.Timing.PushPullInterval = time.Hour
			o.Peers = func() []string { return []string{nodeAddr(1), nodeAddr(2), nodeAddr(3)} }
		}
		nodes := []*node{c.start(1, quiet), c.start(2, quiet), c.start(3, quiet)}
		c.within(30*time.Second, "all see all", func() bool { return allSee(nodes, StateAlive, ids(3)...) })
		nodes[2].stop()
		nodes[2] = c.startAt(3, "10.0.1.33:7461", quiet)
		c.within(5*time.Second, "n3 sees the others", func() bool { return allSee(nodes[2:], StateAlive, ids(3)...) })
		c.within(30*time.Second, "all see n3 at its new address", func() bool {
			return allSee(nodes, StateAlive, ids(3)...) && nodes[0].member("n3").Addr == "10.0.1.33:7461" && nodes[1].member("n3").Addr == "10.0.1.33:7461"
		})
	})
}

func TestRestartedNodeIsHeardWithItsNewMetadata(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 12)
		nodes := c.startN(3)
		for i := range 20 { // others remember a high incarnation of memberlist
			if err := nodes[2].SetMeta(Meta{Name: "host", FeatureLevel: uint32(i)}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		nodes[2].stop()
		nodes[2] = c.start(3, func(o *Options) { o.Meta = Meta{Name: "restarted"} })
		c.within(20*time.Second, "all know the new metadata", func() bool {
			for _, n := range nodes {
				if m := n.member("n3"); m.Meta.Name != "restarted" || m.State != StateAlive {
					return false
				}
			}
			return true
		})
	})
}

func TestKeysAreRotatedWithANodeDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 13)
		nodes := c.startN(3)
		nodes[2].stop()
		up := nodes[:2]
		each := func(change func(*node, []byte) error, key []byte) {
			t.Helper()
			for _, n := range up {
				if err := change(n, key); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
			}
		}
		each(func(n *node, k []byte) error { return n.InstallKey(k) }, key2)
		nodes[2] = c.start(3) // the old key only, which is still the one in use
		c.within(time.Minute, "it is in before the new key is used", func() bool { return allSee(nodes, StateAlive, ids(3)...) })
		nodes[2].stop()
		each(func(n *node, k []byte) error { return n.UseKey(k) }, key2)
		if diff := cmp.Diff([]string{KeyID(key2), KeyID(key1)}, up[0].KeyIDs()); diff != "" {
			t.Errorf("KeyIDs (-want +got):\n%s", diff)
		}

		// It knows the old key only. Its words are understood; the answers, under the
		// new key, are not. That is said, and once the cluster has given it the new key
		// by another way it gets in, still speaking under the old one.
		nodes[2] = c.start(3)
		if _, err := nodes[2].Join(t.Context(), []string{nodeAddr(1)}); !errors.Is(err, ErrWrongKey) {
			t.Errorf("Join with the old key only = %v, want ErrWrongKey", err)
		}
		c.within(time.Second, "it is counted", func() bool { return nodes[2].Stats().WrongKeys > 0 })
		if err := nodes[2].InstallKey(key2); err != nil {
			t.Fatal(err)
		}
		c.within(time.Minute, "it is in while the old key is installed", func() bool { return allSee(nodes, StateAlive, ids(3)...) })
		if err := nodes[2].UseKey(key2); err != nil {
			t.Fatal(err)
		}
		up = nodes
		each(func(n *node, k []byte) error { return n.RemoveKey(k) }, key1)
		time.Sleep(time.Minute)
		if !allSee(nodes, StateAlive, ids(3)...) {
			t.Error("the rotation lost somebody")
		}
		if err := nodes[0].RemoveKey(key2); err == nil {
			t.Error("RemoveKey removed the key in use")
		}
		nodes[2].stop()
		late := c.start(4) // the old key only, too late
		if _, err := late.Join(t.Context(), []string{nodeAddr(1)}); !errors.Is(err, ErrWrongKey) {
			t.Errorf("Join with a removed key = %v, want ErrWrongKey", err)
		}
	})
}
