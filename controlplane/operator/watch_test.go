package operator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// tap is the client's end of a stream.
type tap[R any] struct {
	grpc.ServerStream
	ctx context.Context
	got []*R // read after synctest.Wait
}

func (s *tap[R]) Context() context.Context { return s.ctx }
func (s *tap[R]) Send(r *R) error          { s.got = append(s.got, r); return nil }

// take waits until nothing moves and answers what came since.
func (s *tap[R]) take() []*R {
	time.Sleep(50 * time.Millisecond) // past the interval of the watch
	synctest.Wait()
	got := s.got
	s.got = nil
	return got
}

// watching runs f on a stream and answers the stream, its end and its error.
func watching[R any](t *testing.T, f func(*tap[R]) error) (*tap[R], context.CancelFunc, <-chan error) {
	ctx, cancel := context.WithCancel(t.Context())
	s := &tap[R]{ctx: ctx}
	ended := make(chan error, 1)
	go func() { ended <- f(s) }()
	return s, cancel, ended
}

func watchCommand(t *testing.T, w *world, id string) (*tap[agentplanev1.WatchCommandResponse], context.CancelFunc, <-chan error) {
	return watching(t, func(s *tap[agentplanev1.WatchCommandResponse]) error {
		return w.Commands.WatchCommand(&agentplanev1.WatchCommandRequest{Id: id, WithOutput: true}, s)
	})
}

func watchAgents(t *testing.T, w *world, selector string) (*tap[agentplanev1.WatchAgentsResponse], context.CancelFunc, <-chan error) {
	return watching(t, func(s *tap[agentplanev1.WatchAgentsResponse]) error {
		return w.Fleet.WatchAgents(&agentplanev1.WatchAgentsRequest{Selector: selector}, s)
	})
}

func TestWatchCommandFromCopyToEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := fleetWorld(t)
		id := w.submit(w.spec(`id in ["a1", "a3"]`)).GetId()
		other := w.submit(w.spec(`id == "a4"`)).GetId()
		s, cancel, ended := watchCommand(t, w, id)
		defer cancel()
		first := s.take()
		if len(first) != 1 || !first[0].GetSnapshot() || first[0].GetCommand().GetId() != id || len(first[0].GetInvocations()) != 2 || first[0].GetIndex() != w.m.View().Index() {
			t.Fatalf("first %v", first)
		}
		w.run(other, "a4", raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING, nil)
		if got := s.take(); len(got) != 0 {
			t.Fatalf("a change of another command came: %v", got)
		}
		w.run(id, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, &raftlogv1.Result{Stdout: &raftlogv1.Output{Head: []byte("x")}})
		got := s.take()
		last := got[len(got)-1]
		if last.GetSnapshot() || last.GetCommand().GetCounts()["succeeded"] != 1 {
			t.Fatalf("after the first result: %v", got)
		}
		states := map[string]string{}
		for _, r := range got {
			for _, i := range r.GetInvocations() {
				states[i.GetAgentId()] = i.GetState().ShortName() + string(i.GetStdout().GetHead())
			}
		}
		if states["a1"] != "SUCCEEDEDx" {
			t.Fatalf("after the first result: %v", states)
		}
		select {
		case err := <-ended:
			t.Fatalf("the watch ended with %v before the command", err)
		default:
		}
		w.run(id, "a3", raftlogv1.AttemptState_ATTEMPT_STATE_FAILED, &raftlogv1.Result{ExitCode: 1})
		got = s.take()
		if last = got[len(got)-1]; last.GetCommand().GetState() != agentplanev1.CommandState_COMMAND_STATE_DONE {
			t.Fatalf("at the end: %v", got)
		}
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	})
}

func TestWatchOfADoneCommandEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := fleetWorld(t)
		id := w.submit(w.spec(`id == "a2"`)).GetId() // offline: skipped
		s, cancel, ended := watchCommand(t, w, id)
		defer cancel()
		if err := <-ended; err != nil || len(s.got) != 1 || !s.got[0].GetSnapshot() {
			t.Fatalf("%v, %v", s.got, err)
		}
	})
}

func TestWatchCoalesces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(o *Options) { o.WatchInterval = time.Second })
		for n := range 20 {
			w.agent(fmt.Sprintf("b%02d", n), "b", true)
		}
		id := w.submit(w.spec("all")).GetId()
		s, cancel, ended := watchCommand(t, w, id)
		defer cancel()
		synctest.Wait()
		for n := range 20 {
			w.run(id, fmt.Sprintf("b%02d", n), raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, &raftlogv1.Result{})
		}
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		seen := map[string]int{}
		for _, r := range s.got[1:] {
			for _, i := range r.GetInvocations() {
				seen[i.GetId()]++
			}
		}
		if len(s.got) > 3 || len(seen) != 20 {
			t.Fatalf("%d messages about %d invocations", len(s.got), len(seen))
		}
	})
}

func TestWatchTakesACopyAgainWhenTheFeedIsCompacted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorldOn(t, fsm.New(fsm.Options{FeedChanges: 4}), func(o *Options) { o.WatchInterval = time.Minute })
		w.agent("a1", "web-1", true)
		id := w.submit(w.spec("all")).GetId()
		s, cancel, ended := watchCommand(t, w, id)
		defer cancel()
		fleet, cancelFleet, fleetEnded := watchAgents(t, w, "all")
		defer cancelFleet()
		synctest.Wait()
		time.Sleep(time.Minute + time.Second) // both have read once and pause
		w.set(func() {})
		w.run(id, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING, nil)
		synctest.Wait()
		for n := range 10 {
			w.agent(fmt.Sprintf("c%d", n), "c", false)
		}
		w.run(id, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, &raftlogv1.Result{})
		for n := range 10 {
			w.agent(fmt.Sprintf("d%d", n), "d", false)
		}
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		last := s.got[len(s.got)-1]
		if len(s.got) < 2 || !last.GetSnapshot() || last.GetInvocations()[0].GetState() != agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED {
			t.Fatalf("messages %v", s.got)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if m := fleet.got[len(fleet.got)-1]; !m.GetSnapshot() || len(m.GetAgents()) != 21 {
			t.Fatalf("the fleet's last message has snapshot %v and %d agents", m.GetSnapshot(), len(m.GetAgents()))
		}
		cancelFleet()
		wantRefusal(t, <-fleetEnded, codes.Canceled, "canceled")
	})
}

func TestWatchDividesWhatIsLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for n := range 100 {
			w.agent(fmt.Sprintf("b%03d", n), "b", true)
		}
		id := w.submit(w.spec("all")).GetId()
		for n := range 100 {
			w.run(id, fmt.Sprintf("b%03d", n), raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, &raftlogv1.Result{
				Stdout: &raftlogv1.Output{Head: make([]byte, fsm.MaxOutputBytes)},
			})
		}
		s, cancel, ended := watchCommand(t, w, id)
		defer cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		total := 0
		for n, m := range s.got {
			total += len(m.GetInvocations())
			if size := proto.Size(m); size > chunkBytes+fsm.MaxOutputBytes {
				t.Errorf("message %d has %d bytes", n, size)
			}
			if last := n == len(s.got)-1; (m.GetCommand() != nil) != last || m.GetSnapshot() != (n == 0) {
				t.Errorf("message %d of %d: command %v, snapshot %v", n, len(s.got), m.GetCommand() != nil, m.GetSnapshot())
			}
		}
		if len(s.got) < 2 || total != 100 {
			t.Fatalf("%d messages with %d invocations", len(s.got), total)
		}
	})
}

func TestWatchEnds(t *testing.T) {
	t.Run("when there is no such command, after having asked the leader", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			_, cancel, ended := watchCommand(t, w, "x")
			defer cancel()
			wantRefusal(t, <-ended, codes.NotFound, "no_command")
			if w.reads != 1 {
				t.Fatalf("%d linearizable reads, want 1", w.reads)
			}
		})
	})
	t.Run("when the command is purged", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := fleetWorld(t)
			id := w.submit(w.spec(`id == "a1"`)).GetId()
			_, cancel, ended := watching(t, func(s *tap[agentplanev1.WatchCommandResponse]) error {
				c := &commandWatch{follower: follower{s: w.Commands.service}, id: id, stream: s}
				w.pass(time.Second)
				_, cursor := w.m.ViewAndWatch()
				w.run(id, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, &raftlogv1.Result{})
				w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PurgeCommands{PurgeCommands: &raftlogv1.PurgeCommands{CommandIds: []string{id}}}})
				changes, err := w.m.Changes(s.ctx, cursor)
				if err != nil {
					return err
				}
				return c.send(changes)
			})
			defer cancel()
			wantRefusal(t, <-ended, codes.NotFound, "no_command")
		})
	})
	t.Run("when the node has been without a leader for long, not before", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := fleetWorld(t)
			id := w.submit(w.spec(`id == "a1"`)).GetId()
			_, cancel, ended := watchCommand(t, w, id)
			defer cancel()
			synctest.Wait()
			w.set(func() { w.cfg.Leader = "" })
			time.Sleep(8 * time.Second)
			w.set(func() { w.cfg.Leader = "n2" }) // an election in between
			time.Sleep(2 * time.Second)
			w.set(func() { w.cfg.Leader = "" })
			lost := time.Now()
			wantRefusal(t, <-ended, codes.Unavailable, "no_leader")
			if d := time.Since(lost); d < 10*time.Second || d > 13*time.Second {
				t.Fatalf("it ended after %v", d)
			}
		})
	})
}

// ids of the agents in messages, "-" before removed ones.
func named(messages []*agentplanev1.WatchAgentsResponse) string {
	var ids []string
	for _, m := range messages {
		for _, a := range m.GetAgents() {
			ids = append(ids, a.GetId()+":"+a.GetHealth())
		}
		for _, id := range m.GetRemovedIds() {
			ids = append(ids, "-"+id)
		}
	}
	slices.Sort(ids)
	return strings.Join(ids, " ")
}

func TestWatchAgentsFollowsWhoIsMeant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := fleetWorld(t)
		s, cancel, ended := watchAgents(t, w, `label.env == "prod"`)
		defer cancel()
		expect := func(what, want string) {
			t.Helper()
			if got := named(s.take()); got != want {
				t.Fatalf("%s: %q, want %q", what, got, want)
			}
		}
		if first := s.take(); len(first) != 1 || !first[0].GetSnapshot() || named(first) != "a1:ONLINE a2:DOWN" {
			t.Fatalf("first %v", first)
		}
		w.session("a2")
		expect("a2 connects", "a2:ONLINE")
		w.endSession("a3", false)
		expect("one that is not meant breaks off", "")
		w.endSession("a1", true)
		expect("a1 leaves", "a1:LEFT")
		set := func(id, env string) {
			t.Helper()
			if _, err := w.Fleet.SetLabels(t.Context(), &agentplanev1.SetLabelsRequest{Agent: id, Set: map[string]string{"env": env}}); err != nil {
				t.Fatal(err)
			}
		}
		set("a1", "test")
		expect("a1 is not meant any more", "-a1")
		set("a3", "prod")
		expect("a3 is meant now", "a3:RECONNECTING")
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveAgent{RemoveAgent: &raftlogv1.RemoveAgent{AgentId: "a2"}}})
		expect("a2 is removed", "-a2")
		w.submit(w.spec(`id == "a3"`))
		expect("a3 has work queued", "a3:RECONNECTING")
		time.Sleep(time.Minute)
		expect("nothing happens", "")
		cancel()
		wantRefusal(t, <-ended, codes.Canceled, "canceled")
	})
}

func TestWatchAgentsSeesWhatMovesByTimeAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.agent("a1", "web-1", true)
		w.pass(time.Second)
		w.session("a1")
		w.pass(time.Second)
		w.session("a1")
		s, cancel, ended := watchAgents(t, w, `health == "FLAPPING"`)
		if got := named(s.take()); got != "a1:FLAPPING" {
			t.Fatalf("first %q", got)
		}
		w.pass(FlapWindow) // and no entry
		time.Sleep(2 * watchWake)
		if got := named(s.take()); got != "-a1" {
			t.Fatalf("after the window %q", got)
		}
		cancel()
		wantRefusal(t, <-ended, codes.Canceled, "canceled")
	})
}
