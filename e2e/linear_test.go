package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/e2e/linear"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// recorder lets clients work on few commands at a time, each beginning with another
// node, and writes down what they ask and are told.
type recorder struct {
	s     *stream
	agent string // it is gone: what is for it waits
	began time.Time
	pace  int // how many times as long as usual a client thinks; 0 is 1
	// Clocks of nodes are wrong now and then: those find certificates not valid yet.
	clocks bool
	claims *claimsOf // one command of each window is for an agent that is there

	window atomic.Pointer[[]string] // the commands that are worked on now

	mu      sync.Mutex // guards what follows
	ops     []linear.CommandOp
	refused int               // known to have done nothing
	content map[string]string // that was submitted last, by command
	made    int               // contents
}

const (
	linearClients = 6
	// windowSize is how many commands are worked on at a time; windowOps how many
	// operations there are before others take their place.
	windowSize = 3
	windowOps  = 60
)

// renew has other commands worked on.
func (r *recorder) renew() {
	ids := make([]string, windowSize)
	for i := range ids {
		id, err := uuid.NewV7()
		if err != nil {
			panic(err) // the kernel's random numbers
		}
		ids[i] = id.String()
	}
	r.claims.add(ids[0])
	r.window.Store(&ids)
}

func (r *recorder) note(o linear.CommandOp) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, o)
	if len(r.ops)%windowOps == 0 {
		r.renew()
	}
}

// acknowledged counts what was answered with certainty.
func (r *recorder) acknowledged() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.ops {
		if o.Answer != linear.Unknown {
			n++
		}
	}
	return n
}

// work is one client, until the stream's stop.
func (r *recorder) work(number int, rng *rand.Rand) {
	for {
		c, err := r.s.client(number + rng.IntN(2))
		if err != nil {
			r.s.oddity("make a client: %v", err)
			return
		}
		submitter := client.NewSubmitter(c)
		for range perClient {
			if !r.s.pause(time.Duration(max(r.pace, 1)*(5+rng.IntN(40))) * time.Millisecond) {
				_ = c.Close()
				return
			}
			r.once(number, rng, c, submitter)
		}
		_ = c.Close()
	}
}

// once does one operation, or several of one call.
func (r *recorder) once(number int, rng *rand.Rand, c *client.Client, submitter *client.Submitter) {
	window := *r.window.Load()
	o := linear.CommandOp{Client: number, Command: window[rng.IntN(len(window))]}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(200+rng.IntN(8000))*time.Millisecond)
	defer cancel()
	commands := agentplanev1.NewCommandServiceClient(c)
	var err error
	switch kind := rng.IntN(20); {
	case kind < 2: // all at once: more than one entry holds
		r.batch(ctx, number, rng, commands, window)
		return
	case kind < 7:
		o.Kind, o.Content = linear.Submit, r.choose(o.Command, rng)
		var envelope []byte
		if envelope, err = r.envelope(o); err != nil {
			r.s.oddity("marshal a command: %v", err)
			return
		}
		o.Call = time.Since(r.began)
		if rng.IntN(2) == 0 {
			var a *agentplanev1.SubmitAnswer
			a, err = submitter.Submit(ctx, envelope)
			o.Repeated = a.GetRepeated()
		} else {
			var a *agentplanev1.SubmitResponse
			a, err = commands.Submit(ctx, &agentplanev1.SubmitRequest{Envelope: envelope})
			o.Repeated = a.GetRepeated()
		}
	case kind < 9:
		o.Kind, o.Call = linear.Cancel, time.Since(r.began)
		var a *agentplanev1.CancelCommandResponse
		a, err = commands.CancelCommand(ctx, &agentplanev1.CancelCommandRequest{Id: o.Command})
		o.Canceled, o.Ended = a.GetCommand().GetCanceledBy() != "", a.GetCommand().GetState() == agentplanev1.CommandState_COMMAND_STATE_DONE
	default:
		o.Kind, o.Call = linear.Read, time.Since(r.began)
		var a *agentplanev1.GetCommandResponse
		a, err = commands.GetCommand(ctx, &agentplanev1.GetCommandRequest{Id: o.Command, WithInvocations: true, WithSpec: true})
		row := a.GetCommand()
		o.Content, o.Canceled, o.Claims = strings.Join(row.GetSpec().GetArgv(), " "), row.GetCanceledBy() != "", linear.ClaimedOf(row)
	}
	o.End = time.Since(r.began)
	if r.told(&o, err) {
		r.note(o)
	}
}

// batch submits for every command of the window by one call.
func (r *recorder) batch(ctx context.Context, number int, rng *rand.Rand, commands agentplanev1.CommandServiceClient, window []string) {
	req := &agentplanev1.SubmitBatchRequest{}
	ops := make([]linear.CommandOp, len(window))
	for i, id := range window {
		ops[i] = linear.CommandOp{Client: number, Command: id, Kind: linear.Submit, Content: r.choose(id, rng)}
		envelope, err := r.envelope(ops[i])
		if err != nil {
			r.s.oddity("marshal a command: %v", err)
			return
		}
		req.Envelopes = append(req.Envelopes, envelope)
	}
	call := time.Since(r.began)
	a, err := commands.SubmitBatch(ctx, req)
	end := time.Since(r.began)
	for i, o := range ops {
		o.Call, o.End = call, end
		own := err
		if err == nil {
			o.Repeated = a.Answers[i].GetRepeated()
			if f := a.Answers[i].GetRefusal(); f != nil {
				own = agentplanev1.Refusal(codes.Code(f.GetCode()), f.GetDetail(), "%s", f.GetMessage())
			}
		}
		if r.told(&o, own) {
			r.note(o)
		}
	}
}

// choose is a content that nobody else submits, or the one that was submitted last: a
// command that has a content was submitted with it, whatever its clients were told.
func (r *recorder) choose(command string, rng *rand.Rand) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last := r.content[command]; last != "" && rng.IntN(2) == 0 {
		return last
	}
	r.made++
	r.content[command] = fmt.Sprint("true ", r.made)
	if r.claims.has(command) {
		r.content[command] = fmt.Sprint(r.claims.program, " ", r.made)
	}
	return r.content[command]
}

// told notes the answer; false when the operation is none.
func (r *recorder) told(o *linear.CommandOp, err error) bool {
	if err == nil {
		return true
	}
	e := client.AsError(err)
	switch {
	case e.OutcomeUnknown && o.Kind != linear.Read:
		o.Answer = linear.Unknown
	case e.Code == codes.NotFound && e.Reason == "no_command":
		o.Answer = linear.Absent
	case e.Code == codes.AlreadyExists:
		o.Answer = linear.Conflict
	case r.clocks && e.Reason == "certificate_expired", e.Code == codes.Unavailable, e.Code == codes.DeadlineExceeded, e.Code == codes.Canceled, e.Code == codes.ResourceExhausted:
		r.mu.Lock()
		defer r.mu.Unlock()
		r.refused++
		return false
	default:
		r.s.oddity("%s: %v", o, err)
		return false
	}
	return true
}

// envelope is the same for the same id and content.
func (r *recorder) envelope(o linear.CommandOp) ([]byte, error) {
	agent := r.agent
	if r.claims.has(o.Command) {
		agent = r.claims.agent
	}
	return envelopeOf(&agentplanev1.CommandSpec{
		ClusterId: r.s.info.ClusterId, Incarnation: r.s.info.Incarnation, CommandId: o.Command,
		Agents: []string{agent}, Argv: strings.Fields(o.Content), RunTimeout: int64(time.Minute),
		NotAfter: r.began.Add(time.Hour).UnixNano(), Delivery: agentplanev1.Delivery_DELIVERY_AT_MOST_ONCE, QueueOffline: true,
	})
}

// TestHistoryIsLinearizable has clients submit, read and cancel the same few commands
// through all nodes while leaders and nodes are killed and paused. Most are for an agent that is
// gone, so that nothing but the clients moves them; the others are claimed for one that is
// there. Entries are small, so that batches are divided. Others take and give back places of
// locks. Porcupine judges.
func TestHistoryIsLinearizable(t *testing.T) {
	counts, least := map[string]int{killLeader: 2, killNode: 1, pauseLeader: 3}, 500
	if full() {
		counts, least = map[string]int{killLeader: 10, killNode: 5, killAll: 1, pauseLeader: 30}, 5000
	}
	seed := chaosSeed(t)
	f := newFleet(t, 2, []string{"--batch-max-mutations", "2"}, nil)
	s := newStream(t, f)
	agent := f.agents[0]
	agent.Kill()
	f.agents, f.ghost = f.agents[1:], agent.Name
	c, err := s.client(1)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := &recorder{s: s, agent: agent.Name, began: time.Now(), content: make(map[string]string), claims: newClaimsOf(t, f, f.agents[0].Name)}
	r.renew()
	for n := range linearClients {
		rng := rand.New(rand.NewPCG(seed, uint64(n)+1))
		s.working.Go(func() { r.work(n, rng) })
	}
	locks := &lockRecorder{s: s, began: r.began}
	for n := range lockClients {
		rng := rand.New(rand.NewPCG(seed, uint64(n)+1001))
		s.working.Go(func() { locks.work(linearClients+n, rng) })
	}
	stop := sync.OnceFunc(s.finish)
	defer stop()
	b := &breaker{f: f, client: c, rng: rand.New(rand.NewPCG(seed, 0))}
	for n, kind := range schedule(b.rng, counts) {
		enough := r.acknowledged() + 20
		b.strike(t, kind)
		t.Logf("%6.1fs fault %d: %s", time.Since(r.began).Seconds(), n+1, kind)
		await(t, time.Minute, "the cluster is whole after: "+kind, func() error { return b.whole(t.Context()) })
		await(t, 30*time.Second, "operations are answered after: "+kind, func() error {
			if have := r.acknowledged(); have < enough {
				return fmt.Errorf("%d are answered, want %d", have, enough)
			}
			return nil
		})
	}
	await(t, time.Minute, "there are enough operations", func() error {
		if have := r.acknowledged(); have < least {
			return fmt.Errorf("%d are answered, want %d", have, least)
		}
		return nil
	})
	stop()

	ops, err := r.history(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	kinds := make(map[string]int)
	commands, unknown := make(map[string]bool), 0
	for _, o := range ops {
		kinds[fmt.Sprint(o.Kind, " ", o.Answer)]++
		commands[o.Command] = true
		if o.Answer == linear.Unknown {
			unknown++
		}
	}
	t.Logf("%d operations on %d commands (%v), %d more known to have done nothing", len(ops), len(commands), kinds, r.refused)
	for _, o := range append(s.oddities, b.oddities...) {
		t.Error(o)
	}
	for _, want := range []string{"submit ok", "submit conflict", "read ok", "read absent", "cancel ok", "claim ok"} {
		if kinds[want] == 0 {
			t.Errorf("void: no operation %q", want)
		}
	}
	page := filepath.Join(f.Dir, "history.html")
	switch result, err := linear.JudgeCommands(ops, page); {
	case err != nil:
		t.Fatal(err)
	case result == porcupine.Unknown:
		t.Error("void: porcupine came to no end")
	case result == porcupine.Illegal:
		t.Errorf("the history is not linearizable; it is drawn in %s", page)
	}
	if what := locks.judge(t, filepath.Join(f.Dir, "locks.html")); what != "" {
		t.Errorf("void: %s", what)
	}
}
