package gossip

import (
	"context"
	"fmt"
	"iter"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWatchBeginsWithAllMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 20)
		nodes := c.startN(3)
		next, stop := iter.Pull(nodes[0].Watch(t.Context()))
		defer stop()
		first, ok := next()
		if diff := cmp.Diff(nodes[0].Members(), first); !ok || diff != "" {
			t.Errorf("first = ok %v (-members +first):\n%s", ok, diff)
		}
	})
}

func TestSlowWatcherBlocksNobodyAndGetsTheLatest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 21)
		nodes := c.startN(3)
		next, stop := iter.Pull(nodes[0].Watch(t.Context()))
		defer stop()
		next() // and then does not look for a long time
		for i := range 200 {
			if err := nodes[1].SetMeta(Meta{Name: fmt.Sprint("m", i)}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(300 * time.Millisecond)
		}
		nodes[2].stop()
		c.within(11*time.Second, "n1 sees the end although its watcher sleeps", func() bool {
			return allSee(nodes[:1], StateDead, "n3") && nodes[0].member("n2").Meta.Name == "m199"
		})
		got, _ := next()
		if len(got) != 2 || got[0].ID != "n2" || got[0].Meta.Name != "m199" || got[1].ID != "n3" || got[1].State != StateDead {
			t.Errorf("after 200 changes the watcher was given %+v, want n2 with m199 and n3 dead, once each", got)
		}
	})
}

func TestFlappingMemberIsOneEventForWhoLooksLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 22)
		nodes := c.startN(3)
		h := c.record(nodes[0], "n3")
		next, stop := iter.Pull(nodes[0].Watch(t.Context()))
		defer stop()
		next()
		for range 5 {
			c.net.Partition([]string{nodeAddr(3)}, []string{nodeAddr(1), nodeAddr(2)})
			c.within(15*time.Second, "n3 is dead", func() bool { return allSee(nodes[:2], StateDead, "n3") })
			c.net.Heal()
			c.within(time.Minute, "n3 is back", func() bool { return allSee(nodes, StateAlive, ids(3)...) })
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(h.all()); n < 11 { // alive, then dead and alive five times, suspicions apart
			t.Fatalf("the quick watcher saw %d states: it did not flap", n)
		}
		got, _ := next()
		times := make(map[string]int) // n2 may be among them: n3 had called it dead
		for _, m := range got {
			times[m.ID]++
			if m.State != StateAlive || times[m.ID] > 1 {
				t.Errorf("the late watcher was given %+v, want each changed member alive, once", got)
			}
		}
		if times["n3"] != 1 {
			t.Errorf("the late watcher was given %+v, want n3 among them", got)
		}
	})
}

func TestWatchEndsWithContextAndPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 23)
		n := c.start(1)
		watch := func(ctx context.Context) <-chan struct{} {
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for range n.Watch(ctx) {
				}
			}()
			return ended
		}
		ctx, cancel := context.WithCancel(t.Context())
		one, two := watch(ctx), watch(t.Context())
		synctest.Wait()
		cancel()
		<-one
		synctest.Wait()
		select {
		case <-two:
			t.Error("a watch ended with another's context")
		default:
		}
		n.stop()
		<-two
	})
}

// BenchmarkFanOut measures one change of one of 50 members until each of the
// watchers has it.
func BenchmarkFanOut(b *testing.B) {
	for _, watchers := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("watchers=%d", watchers), func(b *testing.B) {
			tab := newTable(discard)
			rows := make([]observed, 50)
			for i := range rows {
				rows[i] = observed{id: nodeID(i), addr: nodeAddr(1), state: StateAlive, meta: mustMeta(b, Meta{Name: "x"})}
			}
			now := time.Now()
			tab.update(rows, now)
			p := &Pool{table: tab}
			p.life, p.end = context.WithCancel(context.Background())
			got := make(chan struct{}, watchers)
			for range watchers {
				go func() {
					for range p.Watch(p.life) {
						got <- struct{}{}
					}
					got <- struct{}{} // its end
				}()
			}
			all := func() {
				for range watchers {
					<-got
				}
			}
			all()
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				rows[0].addr = nodeAddr(i % 2)
				tab.update(rows, now)
				all()
			}
			b.StopTimer()
			p.end()
			all()
		})
	}
}

// BenchmarkLook measures one look at the table of memberlist, which happens
// after news and once per probe interval.
func BenchmarkLook(b *testing.B) {
	p, err := Open(Options{NodeID: "n1", Label: "l", Keys: [][]byte{key1}, BindAddr: "127.0.0.1:0"})
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	b.ReportAllocs()
	for b.Loop() {
		if err := p.look(); err != nil {
			b.Fatal(err)
		}
	}
}
