package rollout

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func TestNewRefusesWhatCannotWork(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("an Engine without a machine was made")
	}
	if _, err := New(Options{Machine: fsm.New(fsm.Options{}), Proposer: &world{}, LostAfter: -1}); err == nil {
		t.Error("a negative time was accepted")
	}
}

func TestReleasesAtOnceAndExpiresInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(3)
		stop := w.lead(w.options())
		defer stop()
		id := w.submit(targets, nil)
		synctest.Wait() // no tick is needed
		w.want(id, Counts{released: 3})
		w.claim(id, 1)
		w.report(id, 1, succeeded)
		w.claim(id, 2)
		pass(5*time.Minute - time.Second)
		w.want(id, Counts{released: 1})
		pass(2 * time.Second)
		w.want(id, Counts{succeeded: 1, claimed: 1, expired: 1})
	})
}

func TestWaitsForNotBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(2)
		stop := w.lead(w.options())
		defer stop()
		begin := time.Now().Add(time.Hour)
		id := w.submit(targets, func(m *raftlogv1.SubmitCommand) {
			m.NotBefore, m.NotAfter = begin.UnixNano(), begin.Add(time.Minute).UnixNano()
		})
		pass(59*time.Minute + 59*time.Second)
		w.want(id, Counts{pending: 2})
		if n := w.proposed("ReleaseCommand"); n != 0 {
			t.Errorf("Release was proposed %d times too early", n)
		}
		pass(time.Second)
		w.want(id, Counts{released: 2})
	})
}

// The state's time moves only with entries, and may go more slowly than the leader's
// estimate: a refusal is tried again, and not without end.
func TestExpiryFollowsTheClustersTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(1)
		id := w.submit(targets, func(m *raftlogv1.SubmitCommand) { m.Ttl = int64(time.Hour) })
		stop := w.lead(w.options())
		defer stop()
		pass(time.Hour - time.Minute)
		w.want(id, Counts{released: 1}) // idle since: the state's time is an hour old
		if n := w.proposed("ExpireCommands"); n != 0 {
			t.Errorf("Expire was proposed %d times too early", n)
		}
		w.mu.Lock()
		w.skew = -5 * time.Second
		w.mu.Unlock()
		pass(time.Minute + 4*time.Second)
		w.want(id, Counts{released: 1})
		pass(2 * time.Second)
		w.want(id, Counts{expired: 1})
		if n := w.proposed("ExpireCommands"); n > 3 {
			t.Errorf("Expire was proposed %d times", n)
		}
	})
}

func TestManyTargetsInBoundedEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{FeedChanges: 500}) // the engine falls behind and lists anew
		targets := w.enrol(1500)
		o := w.options()
		o.ReleaseMax = 700
		stop := w.lead(o)
		defer stop()
		a, b := w.submit(targets, nil), w.submit(targets, nil)
		synctest.Wait()
		w.want(a, Counts{released: 1500})
		w.want(b, Counts{released: 1500})
		for _, n := range targets[:500] {
			w.claim(a, n)
		}
		pass(5*time.Minute + time.Second)
		w.want(a, Counts{claimed: 500, expired: 1000})
		w.want(b, Counts{expired: 1500})
		if n := w.largestEntry(""); n > 700 || n < 350 {
			t.Errorf("an entry moved %d rows, the bound is 700", n)
		}
		pass(15 * time.Minute)
		w.want(a, Counts{claimed: 500}) // their agents are connected
		pass(time.Hour)
		w.want(a, Counts{lost: 500, expired: 1000})
	})
}

func TestLostWithoutContact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(4)
		stop := w.lead(w.options())
		defer stop()
		id := w.submit(targets, nil)
		synctest.Wait()
		for _, n := range targets {
			w.claim(id, n)
		}
		for _, n := range targets[1:] {
			w.report(id, n, runs)
		}
		pass(5 * time.Minute)
		for _, n := range targets[:3] {
			w.end(n)
		}
		pass(15*time.Minute - time.Second)
		w.want(id, Counts{claimed: 1, runs: 3})
		w.open(3) // comes back at the last moment
		pass(2 * time.Second)
		w.want(id, Counts{lost: 2, runs: 2})
		w.wantReason(id, 1, NoContact)
		w.wantReason(id, 2, NoContact)
		w.report(id, 3, succeeded)
		w.report(id, 4, succeeded)
		if c, _ := w.m.View().Command(id); c.GetState() != raftlogv1.CommandState_COMMAND_STATE_DONE {
			t.Errorf("the command is %s", c.GetState())
		}
		w.open(1)
		if !w.report(id, 1, succeeded) || !w.invocation(id, 1).GetLate() {
			t.Error("evidence did not supersede LOST")
		}
		// Nothing is left to remember; only the late result remains to be purged.
		pass(time.Minute)
	})
}

func TestLongProgramKeepsItsTimeWithoutContact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(1)
		stop := w.lead(w.options())
		defer stop()
		id := w.submit(targets, func(m *raftlogv1.SubmitCommand) { m.RunTimeout, m.KillGrace = int64(3*time.Hour), 0 })
		synctest.Wait()
		w.claim(id, 1)
		w.report(id, 1, runs)
		pass(time.Hour)
		w.end(1)
		pass(2*time.Hour - time.Second)
		w.want(id, Counts{runs: 1})
		pass(3 * time.Second)
		w.want(id, Counts{lost: 1})
	})
}

func TestLostWithoutAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(1)
		stop := w.lead(w.options())
		defer stop()
		id := w.submit(targets, nil)
		synctest.Wait()
		w.claim(id, 1)
		pass(10*time.Minute + 10*time.Second + time.Minute + 15*time.Minute - time.Second)
		w.want(id, Counts{claimed: 1})
		pass(2 * time.Second)
		w.want(id, Counts{lost: 1})
		w.wantReason(id, 1, NoAnswer)
	})
}

func TestIdempotentCommandIsTriedAgainUntilItExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(1)
		stop := w.lead(w.options())
		defer stop()
		id := w.submit(targets, func(m *raftlogv1.SubmitCommand) {
			m.Ttl, m.Delivery, m.MaxAttempts = int64(time.Hour), raftlogv1.Delivery_DELIVERY_IDEMPOTENT, 3
		})
		synctest.Wait()
		w.claim(id, 1)
		w.end(1)
		pass(15*time.Minute + time.Second)
		w.want(id, Counts{released: 1})
		if n := w.invocation(id, 1).GetAttempt(); n != 2 {
			t.Fatalf("attempt %d, want 2", n)
		}
		pass(45 * time.Minute)
		w.want(id, Counts{expired: 1})
	})
}

func TestCanceledAttemptEndsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(2)
		stop := w.lead(w.options())
		defer stop()
		id := w.submit(targets, nil)
		synctest.Wait()
		w.claim(id, 1)
		w.end(1)
		pass(4 * time.Minute)
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CancelCommand{CancelCommand: &raftlogv1.CancelCommand{CommandId: id}}})
		w.want(id, Counts{claimed: 1, canceled: 1})
		pass(11*time.Minute + time.Second) // the cancel begins no waiting anew
		w.want(id, Counts{lost: 1, canceled: 1})
	})
}

func TestNewLeaderCountsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(2)
		stop := w.lead(w.options())
		id := w.submit(targets, nil)
		waits := w.submit(targets, func(m *raftlogv1.SubmitCommand) { m.Ttl = int64(100 * time.Hour) })
		synctest.Wait()
		w.claim(id, 1)
		w.claim(id, 2)
		w.end(1)
		pass(14 * time.Minute)
		stop()
		pass(48 * time.Hour) // nobody leads
		queued := w.submit(targets, nil)
		w.takeOffice()
		stop = w.lead(w.options())
		defer stop()
		w.want(waits, Counts{released: 2})
		w.want(queued, Counts{released: 2})
		pass(14 * time.Minute)
		w.want(id, Counts{claimed: 2}) // both had no chance to report before
		pass(2 * time.Minute)
		w.want(id, Counts{lost: 2})
		w.wantReason(id, 1, NoContact)
		w.wantReason(id, 2, NoAnswer)
	})
}

func TestFailedProposalsAreTakenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(2)
		stop := w.lead(w.options())
		defer stop()
		w.breakProposals(errors.New("outcome unknown"))
		id := w.submit(targets, nil)
		pass(time.Minute)
		w.want(id, Counts{pending: 2})
		w.breakProposals(nil)
		pass(6 * time.Second)
		w.want(id, Counts{released: 2})
		w.claim(id, 1)
		w.end(1)
		w.breakProposals(errors.New("outcome unknown"))
		pass(20 * time.Minute)
		w.want(id, Counts{claimed: 1, released: 1})
		w.breakProposals(nil)
		pass(6 * time.Second)
		w.want(id, Counts{lost: 1, expired: 1})
	})
}

func TestPurgesOldAndTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(1)
		o := w.options()
		o.Retain, o.RetainCount = time.Hour, 300
		stop := w.lead(o)
		defer stop()
		var ids []string
		for range 700 {
			ids = append(ids, w.submit(targets, nil))
			synctest.Wait()
			w.claim(ids[len(ids)-1], 1)
			w.report(ids[len(ids)-1], 1, succeeded)
			pass(time.Millisecond)
		}
		open := w.submit(targets, func(m *raftlogv1.SubmitCommand) { m.Ttl = int64(10 * time.Hour) })
		pass(3 * time.Second)
		if n := w.m.View().CommandCount(); n != 301 {
			t.Errorf("%d commands are kept, want 300 and the open one", n)
		}
		if _, found := w.m.View().Command(ids[400]); !found {
			t.Error("the younger ones went")
		}
		pass(time.Hour)
		if n := w.m.View().CommandCount(); n != 1 {
			t.Errorf("%d commands are kept after their time, want the open one", n)
		}
		w.want(open, Counts{released: 1})
	})
}

// Commands that end by the thousand are expired and purged by the thousand: an entry for
// every few of them would fall behind those who submit, and the state would grow without
// end.
func TestKeepsPaceWithManySmallCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(7)
		o := w.options()
		o.RetainCount = 300
		stop := w.lead(o)
		defer stop()
		const commands = 3500
		for n := range commands {
			w.submit(targets[n%len(targets):n%len(targets)+1], nil)
		}
		pass(5*time.Minute + 3*time.Second)
		if n := w.m.View().CommandCount(); n != 300 {
			t.Errorf("%d commands are kept, want 300", n)
		}
		for _, kind := range []string{"ExpireCommands", "PurgeCommands"} {
			if n := w.largestEntry(kind); n > 1000 {
				t.Errorf("%s of one entry took %d commands, the bound is 1000", kind, n)
			}
			if n := w.proposed(kind); n < 4 || n > 8 {
				t.Errorf("%s was proposed %d times for %d commands, want about 4", kind, n, commands)
			}
		}
	})
}

// However few mutations the proposer takes at once, everything gets its turn: what
// expires, what is given up, and what is purged.
func TestEverythingGetsItsTurnInSmallEntries(t *testing.T) {
	for _, most := range []int{1, 2, 3, maxBatch} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, fsm.Options{})
				w.most = most
				targets := w.enrol(maxBatch)
				o := w.options()
				o.MaxMutations, o.RetainCount = most, 10
				stop := w.lead(o)
				defer stop()
				given := w.submit(targets, nil)
				synctest.Wait()
				for _, n := range targets {
					w.claim(given, n)
				}
				for n := range 200 {
					w.submit(targets[n%len(targets):n%len(targets)+1], nil)
				}
				for _, n := range targets {
					w.end(n)
				}
				pass(time.Hour)
				w.want(given, Counts{lost: maxBatch})
				if n := w.m.View().CommandCount(); n != 10 {
					t.Errorf("%d commands are kept, want 10", n)
				}
			})
		})
	}
}

// Commands that nobody has read of yet do not count as finished.
func TestPurgeCountsWhatIsFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(1)
		o := w.options()
		o.RetainCount = 20
		for range 20 {
			id := w.submit(targets, func(m *raftlogv1.SubmitCommand) { m.Release = 1 })
			w.claim(id, 1)
			w.report(id, 1, succeeded)
		}
		e, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		l := e.begin()
		for range 30 {
			w.submit(targets, nil)
		}
		view, now := l.look()
		if b := l.gather(view, now); len(b.mutations) > 0 {
			t.Errorf("%v is proposed while as many commands have finished as are kept", b.mutations)
		}
	})
}

// Tokens go some time after they have ended, the oldest at once when
// too many have.
func TestPurgesTokensThatAreOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		w.enrol(1) // with a token that lives an hour, of 20 uses
		token := func(n int, ttl time.Duration) string {
			id := fmt.Sprintf("00000000-0000-7000-8001-%012d", n)
			w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CreateToken{CreateToken: &raftlogv1.CreateToken{
				Token: &raftlogv1.Token{Id: id, Kind: raftlogv1.TokenKind_TOKEN_KIND_AGENT, ProofKey: []byte("p"), AuthenticatorHash: make([]byte, 32), MaxUses: 1}, Ttl: int64(ttl),
			}}})
			return id
		}
		for n := range 400 {
			token(n, time.Minute+time.Duration(n)*time.Millisecond)
		}
		valid := token(1000, 30*24*time.Hour)
		o := w.options()
		o.RetainTokens, o.RetainTokenCount = 10*time.Hour, 150
		stop := w.lead(o)
		defer stop()
		pass(50 * time.Second)
		if n := w.m.View().TokenCount(); n != 402 {
			t.Errorf("%d tokens are kept while all may be used, want 402", n)
		}
		pass(3 * time.Minute)
		if n := w.m.View().TokenCount(); n != 152 {
			t.Errorf("%d tokens are kept, want the 150 that ended last and two that are valid", n)
		}
		if _, found := w.m.View().Token("00000000-0000-7000-8001-000000000250"); !found {
			t.Error("the younger ones went")
		}
		pass(12 * time.Hour)
		if n := w.m.View().TokenCount(); n != 1 {
			t.Errorf("%d tokens are kept after their time, want one", n)
		}
		if _, found := w.m.View().Token(valid); !found {
			t.Error("a token that may be used was purged")
		}
	})
}

// The state may be ahead of the feed: an agent that is back is not given up although
// the news of it is still on its way.
func TestDecisionsAreTakenOnTheStateAsItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(1)
		id := w.submit(targets, nil)
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReleaseCommand{ReleaseCommand: &raftlogv1.ReleaseCommand{CommandId: id, Max: 9, Wave: 1}}})
		w.claim(id, 1)
		w.end(1)
		e, err := New(w.options())
		if err != nil {
			t.Fatal(err)
		}
		l := &term{Engine: e, books: newBooks(), patience: Patience{15 * time.Minute}}
		l.take(fsm.News{List: w.m.View()})
		a := l.books.attempts[fsm.InvocationID(id, 1)]
		for range 20 * 60 {
			pass(time.Second)
			l.look()
		}
		view, now := l.look()
		if mut, _ := l.decideAttempt(view, a, now); mut.GetLoseAttempt().GetReason() != NoContact {
			t.Fatalf("decides %v, want LOST", mut)
		}
		w.open(1)
		view, now = l.look()
		if mut, _ := l.decideAttempt(view, a, now); mut != nil {
			t.Errorf("decides %v although the agent is back", mut)
		}
		w.report(id, 1, succeeded)
		view, now = l.look()
		if mut, wait := l.decideAttempt(view, a, now); mut != nil || wait != forever {
			t.Errorf("decides %v, wait %v although the attempt has ended", mut, wait)
		}
	})
}

func TestIdleEngineProposesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(10)
		stop := w.lead(w.options())
		defer stop()
		w.submit(targets, func(m *raftlogv1.SubmitCommand) { m.Ttl = int64(100 * time.Hour) })
		synctest.Wait()
		before := w.proposed("")
		pass(10 * time.Hour)
		if n := w.proposed("") - before; n != 0 {
			t.Errorf("%d mutations were proposed while nothing happened", n)
		}
	})
}

func TestBooksForgetWhatHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(2)
		id := w.submit(targets, nil)
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReleaseCommand{ReleaseCommand: &raftlogv1.ReleaseCommand{CommandId: id, Max: 9, Wave: 1}}})
		w.claim(id, 1)
		w.claim(id, 2)
		b := newBooks()
		b.list(w.m.View(), time.Now(), 0, w.m.Now())
		if len(b.commands) != 1 || len(b.attempts) != 2 || len(b.agents) != 2 || len(b.queue.items) != 2 {
			t.Fatalf("%d commands, %d attempts, %d agents, %d items", len(b.commands), len(b.attempts), len(b.agents), len(b.queue.items))
		}
		w.report(id, 1, succeeded)
		b.list(w.m.View(), time.Now(), 0, w.m.Now())
		if len(b.commands) != 1 || len(b.attempts) != 1 || len(b.agents) != 1 || len(b.queue.items) != 1 {
			t.Fatalf("%d commands, %d attempts, %d agents, %d items", len(b.commands), len(b.attempts), len(b.agents), len(b.queue.items))
		}
		w.report(id, 2, succeeded)
		b.list(w.m.View(), time.Now(), 0, w.m.Now())
		if len(b.commands)+len(b.attempts)+len(b.agents)+len(b.queue.items) != 0 {
			t.Fatalf("%d commands, %d attempts, %d agents, %d items", len(b.commands), len(b.attempts), len(b.agents), len(b.queue.items))
		}
	})
}

func BenchmarkChange(b *testing.B) {
	v := fsm.New(fsm.Options{}).View()
	books, now := newBooks(), time.Now()
	rows := make([]*raftlogv1.Invocation, 10_000)
	for i := range rows {
		id := fmt.Sprint("c.", i)
		rows[i] = &raftlogv1.Invocation{Id: id, CommandId: "c", AgentId: id, Attempt: 1, State: claimed}
	}
	i := 0
	for b.Loop() {
		row := rows[i%len(rows)]
		row.Attempt++
		books.invocation(row.GetId(), row, v, now, 0)
		i++
	}
}

// hanging answers nothing while it is held.
type hanging struct {
	Proposer
	held chan struct{}
}

func (h *hanging) Propose(ctx context.Context, mutations ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	select {
	case <-h.held:
		return h.Proposer.Propose(ctx, mutations...)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Whoever waits for an answer reads on: a leader that falls behind the feed must list
// everything anew, falls behind meanwhile, and does nothing else any more.
func TestReadsTheFeedWhileAProposalHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{FeedChanges: 100})
		targets := w.enrol(10)
		h := &hanging{w, make(chan struct{})}
		e, err := New(Options{Machine: w.m, Proposer: h})
		if err != nil {
			t.Fatal(err)
		}
		l := e.begin()
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { l.run(ctx) })
		first := w.submit(targets[:1], nil)
		synctest.Wait()
		for range 500 { // they need nothing yet
			w.submit(targets, func(m *raftlogv1.SubmitCommand) { m.Release = uint32(len(targets)) })
			synctest.Wait()
		}
		close(h.held)
		synctest.Wait()
		w.want(first, Counts{released: 1})
		cancel()
		running.Wait()
		if l.books.lists != 1 {
			t.Errorf("everything was listed %d times, want once", l.books.lists)
		}
	})
}
