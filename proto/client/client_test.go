package client_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/client/clienttest"
)

func newClient(t *testing.T, opts client.Options) *client.Client {
	t.Helper()
	c, err := client.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// quick makes frozen nodes noticed soon.
func quick(opts client.Options) client.Options {
	opts.ConnectTimeout = time.Second
	opts.ProbeAfter, opts.ProbeTimeout = 200*time.Millisecond, time.Second
	return opts
}

func members(t *testing.T, c *client.Client) error {
	t.Helper()
	_, err := agentplanev1.NewClusterServiceClient(c).ListMembers(t.Context(), &agentplanev1.ListMembersRequest{})
	return err
}

func submission(t *testing.T, cluster *clienttest.Cluster, id string) *agentplanev1.SubmitRequest {
	t.Helper()
	spec, err := proto.Marshal(&agentplanev1.CommandSpec{
		ClusterId: cluster.ID, CommandId: id, Selector: "all", Argv: []string{"true"},
		NotAfter: time.Now().Add(time.Minute).UnixNano(),
	})
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := proto.Marshal(&agentplanev1.Envelope{Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	return &agentplanev1.SubmitRequest{Envelope: envelope}
}

func submit(t *testing.T, c *client.Client, cluster *clienttest.Cluster) (string, *agentplanev1.SubmitResponse, error) {
	t.Helper()
	id := uuid.Must(uuid.NewV7()).String()
	r, err := agentplanev1.NewCommandServiceClient(c).Submit(t.Context(), submission(t, cluster, id))
	return id, r, err
}

func asError(t *testing.T, err error) *client.Error {
	t.Helper()
	e, ok := errors.AsType[*client.Error](err)
	if !ok {
		t.Fatalf("error is %T (%v), want *client.Error", err, err)
	}
	return e
}

func TestCallsGoOnWhenANodeDies(t *testing.T) {
	cluster := clienttest.NewCluster(t, 3)
	c := newClient(t, quick(cluster.Options()))
	if err := members(t, c); err != nil {
		t.Fatal(err)
	}
	if got := c.Address(); got != cluster.Nodes[0].Address {
		t.Fatalf("Address() = %s, want the first given, %s", got, cluster.Nodes[0].Address)
	}
	cluster.Nodes[0].Kill()
	if err := members(t, c); err != nil {
		t.Fatalf("read after the first node died: %v", err)
	}
	cluster.Nodes[1].Kill()
	cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{})
	if _, _, err := submit(t, c, cluster); err != nil {
		t.Fatalf("write after two nodes died: %v", err)
	}
	if got := c.Address(); got != cluster.Nodes[2].Address {
		t.Errorf("Address() = %s, want the one that answers, %s", got, cluster.Nodes[2].Address)
	}
}

func TestOneGivenAddressIsEnoughToReachTheOthers(t *testing.T) {
	cluster := clienttest.NewCluster(t, 3)
	opts := quick(cluster.Options())
	opts.Addresses = []string{cluster.Nodes[1].Address}
	cluster.Nodes[1].Kill()
	c := newClient(t, opts)
	if err := members(t, c); err != nil {
		t.Fatalf("the bundle's addresses were not tried: %v", err)
	}
}

func TestFrozenNodeIsLeftSoon(t *testing.T) {
	for _, when := range []string{"before the connection", "on an open connection"} {
		t.Run(when, func(t *testing.T) {
			cluster := clienttest.NewCluster(t, 3)
			cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{})
			c := newClient(t, cluster.Options()) // the times people get
			if when == "on an open connection" {
				if err := members(t, c); err != nil {
					t.Fatal(err)
				}
			}
			cluster.Nodes[0].Freeze()
			start := time.Now()
			if err := members(t, c); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took > 2500*time.Millisecond {
				t.Errorf("read took %v, want at most 2.5 s", took)
			}
		})
	}
}

func TestWriteOnAFrozenNodeGetsItsOutcomeElsewhere(t *testing.T) {
	cluster := clienttest.NewCluster(t, 2)
	cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{})
	c := newClient(t, quick(cluster.Options()))
	if err := members(t, c); err != nil {
		t.Fatal(err)
	}
	// The node does the work and freezes before it answers.
	first := cluster.Nodes[0]
	first.Break(func(_ context.Context, method string) (error, bool) {
		first.Break(nil)
		first.Freeze()
		return status.Error(codes.Unknown, "never seen"), true
	})
	id, r, err := submit(t, c, cluster)
	if err != nil {
		t.Fatalf("submit: %v", err)
	}
	if !r.Repeated || r.Command.Id != id {
		t.Errorf("answer = %v, want the command that stood", r)
	}
	if got := cluster.State.Commands(); len(got) != 1 {
		t.Errorf("commands = %v, want one", got)
	}
}

// A live node that holds a call is not a frozen one.
func TestNodeThatHoldsACallIsLeftInPeace(t *testing.T) {
	cluster := clienttest.NewCluster(t, 2)
	cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{})
	c := newClient(t, quick(cluster.Options()))
	cluster.Nodes[0].Break(func(ctx context.Context, _ string) (error, bool) {
		time.Sleep(1500 * time.Millisecond) // no leader yet
		return nil, false
	})
	if _, r, err := submit(t, c, cluster); err != nil || r.Repeated {
		t.Fatalf("submit = %v, %v; want the first answer", r, err)
	}
	for _, call := range cluster.Nodes[1].Calls() {
		t.Errorf("the other node was asked %s", call.Method)
	}
}

func TestHeldReadIsGivenToTheNextNode(t *testing.T) {
	for _, words := range []string{"the node is quicker to say so", "the client is"} {
		t.Run(words, func(t *testing.T) { heldRead(t, words == "the client is") })
	}
}

func heldRead(t *testing.T, silent bool) {
	cluster := clienttest.NewCluster(t, 2)
	opts := quick(cluster.Options())
	opts.ReadTry = 300 * time.Millisecond
	c := newClient(t, opts)
	cluster.Nodes[0].Break(func(ctx context.Context, _ string) (error, bool) {
		if silent {
			<-ctx.Done()
			return ctx.Err(), false
		}
		return clienttest.Refusal(codes.DeadlineExceeded, "timed_out", "no leader in time", ""), false
	})
	start := time.Now()
	if err := members(t, c); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("read took %v, want well below 2 s", took)
	}
}

func TestOutcome(t *testing.T) {
	unavailable := func(unknown bool) error {
		return clienttest.Detailed(codes.Unavailable, "no leader", &agentplanev1.ErrorDetail{Reason: "no_leader", OutcomeUnknown: unknown})
	}
	denied := clienttest.Refusal(codes.PermissionDenied, "denied", "you may not", "ask an admin")
	always := func(err error, after bool) clienttest.Fault {
		return func(context.Context, string) (error, bool) { return err, after }
	}
	tests := []struct {
		name          string
		first, second clienttest.Fault
		want          codes.Code
		unknown       bool
		reason        string
		done          int // commands that stand at the end
	}{
		{"a refusal is final and known", always(denied, false), nil, codes.PermissionDenied, false, "denied", 0},
		{"a later node gives the outcome of an unknown try", always(unavailable(true), true), nil, codes.OK, false, "", 1},
		{"an unknown try stays unknown whatever a later node refuses", always(unavailable(true), true), always(denied, false), codes.PermissionDenied, true, "denied", 1},
		{"a known unavailable try stays known", always(unavailable(false), false), always(denied, false), codes.PermissionDenied, false, "denied", 0},
		{"a write that a node gives up by its own clock is tried elsewhere", always(status.Error(codes.DeadlineExceeded, "too late"), true), nil, codes.OK, false, "", 1},
		{"an internal error without details is unknown and final", always(status.Error(codes.Internal, "boom"), true), nil, codes.Internal, true, "", 1},
		{"no leader anywhere is known as not done", always(unavailable(false), false), always(unavailable(false), false), codes.DeadlineExceeded, false, "no_leader", 0},
		{"unknown everywhere is unknown", always(unavailable(true), false), always(unavailable(true), false), codes.DeadlineExceeded, true, "no_leader", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cluster := clienttest.NewCluster(t, 2)
			cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{})
			opts := quick(cluster.Options())
			opts.CallTimeout = time.Second
			c := newClient(t, opts)
			cluster.Nodes[0].Break(tt.first)
			cluster.Nodes[1].Break(tt.second)
			_, _, err := submit(t, c, cluster)
			if got := status.Code(err); got != tt.want {
				t.Fatalf("code = %v (%v), want %v", got, err, tt.want)
			}
			if n := len(cluster.State.Commands()); n != tt.done {
				t.Errorf("%d commands stand, want %d", n, tt.done)
			}
			if err == nil {
				return
			}
			e := asError(t, err)
			if e.OutcomeUnknown != tt.unknown {
				t.Errorf("OutcomeUnknown = %v (%v), want %v", e.OutcomeUnknown, err, tt.unknown)
			}
			if e.Reason != tt.reason {
				t.Errorf("Reason = %q, want %q", e.Reason, tt.reason)
			}
		})
	}
}

func TestACallEndsWhenNobodyKnowsOfALeader(t *testing.T) {
	for name, unknown := range map[string]bool{"nothing was done": false, "an unknown outcome is looked for to the end": true} {
		t.Run(name, func(t *testing.T) {
			cluster := clienttest.NewCluster(t, 3)
			cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{})
			opts := quick(cluster.Options())
			opts.CallTimeout, opts.Leaderless = 3*time.Second, 300*time.Millisecond
			c := newClient(t, opts)
			var once atomic.Bool // handlers are goroutines
			cluster.Nodes[0].Break(func(context.Context, string) (error, bool) {
				d := &agentplanev1.ErrorDetail{Reason: "no_leader", OutcomeUnknown: unknown && !once.Swap(true)}
				return clienttest.Detailed(codes.Unavailable, "the cluster has no leader", d), false
			})
			cluster.Nodes[1].Kill()
			cluster.Nodes[2].Kill()
			start := time.Now()
			_, _, err := submit(t, c, cluster)
			e, took := asError(t, err), time.Since(start)
			if e.Reason != "no_leader" || e.OutcomeUnknown != unknown || (took < opts.CallTimeout) == unknown || took < opts.Leaderless {
				t.Errorf("after %v: %+v", took, e)
			}
		})
	}
}

func TestConnectionBrokenInTheMiddleIsUnknown(t *testing.T) {
	cluster := clienttest.NewCluster(t, 1)
	cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{})
	opts := quick(cluster.Options())
	opts.Unreachable = 200 * time.Millisecond
	opts.CallTimeout = 10 * time.Second
	opts.ConnectTimeout = 10 * time.Second // the machine may be busy; a dead node refuses at once
	c := newClient(t, opts)
	node := cluster.Nodes[0]
	if err := members(t, c); err != nil { // so that a connection stands, and can break
		t.Fatal(err)
	}
	var once sync.Once
	var killed sync.WaitGroup
	node.Break(func(ctx context.Context, _ string) (error, bool) {
		once.Do(func() { killed.Go(node.Kill) })
		<-ctx.Done()
		return ctx.Err(), false
	})
	_, _, err := submit(t, c, cluster)
	killed.Wait()
	if e := asError(t, err); !e.OutcomeUnknown {
		t.Errorf("OutcomeUnknown = false (%v), want true: the request had gone out", err)
	}
	if err := members(t, c); err == nil {
		t.Error("read of a dead cluster succeeded")
	} else if e := asError(t, err); e.OutcomeUnknown || !strings.Contains(e.Message, node.Address) {
		t.Errorf("read: unknown=%v, message %q; want known, and the address in it", e.OutcomeUnknown, e.Message)
	}
}

func TestNobodyReachableIsKnownAndSoon(t *testing.T) {
	cluster := clienttest.NewCluster(t, 2)
	opts := quick(cluster.Options())
	opts.Unreachable = 300 * time.Millisecond
	c := newClient(t, opts)
	cluster.Nodes[0].Kill()
	cluster.Nodes[1].Kill()
	start := time.Now()
	_, _, err := submit(t, c, cluster)
	e := asError(t, err)
	if e.Code != codes.Unavailable || e.OutcomeUnknown {
		t.Errorf("code %v, unknown %v; want Unavailable and known", e.Code, e.OutcomeUnknown)
	}
	for _, n := range cluster.Nodes {
		if !strings.Contains(e.Message, n.Address+": connect: connection refused") {
			t.Errorf("message %q does not say what is wrong with %s", e.Message, n.Address)
		}
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("gave up after %v, want soon", took)
	}
}

func TestRequestThatNeverWentOutIsKnown(t *testing.T) {
	cluster := clienttest.NewCluster(t, 1)
	cluster.Nodes[0].Freeze() // before any handshake
	opts := quick(cluster.Options())
	opts.CallTimeout = 500 * time.Millisecond
	c := newClient(t, opts)
	_, _, err := submit(t, c, cluster)
	if e := asError(t, err); e.OutcomeUnknown || e.Code != codes.DeadlineExceeded {
		t.Errorf("code %v, unknown %v (%v); want DeadlineExceeded and known", e.Code, e.OutcomeUnknown, err)
	}
}

func TestNextReadCarriesTheIndexOfTheWrite(t *testing.T) {
	cluster := clienttest.NewCluster(t, 2)
	cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{})
	c := newClient(t, quick(cluster.Options()))
	id, _, err := submit(t, c, cluster)
	if err != nil {
		t.Fatal(err)
	}
	index := cluster.State.Index()
	if got := c.AppliedIndex(); got != index {
		t.Fatalf("AppliedIndex() = %d, want %d", got, index)
	}
	cluster.Nodes[0].Kill()
	commands := agentplanev1.NewCommandServiceClient(c)
	for _, stale := range []bool{false, true} {
		if _, err := commands.GetCommand(t.Context(), &agentplanev1.GetCommandRequest{Id: id, Stale: stale}); err != nil {
			t.Fatal(err)
		}
	}
	var got []uint64
	for _, call := range cluster.Nodes[1].Calls() {
		if call.Method == agentplanev1.CommandService_GetCommand_FullMethodName {
			got = append(got, call.MinIndex)
		}
	}
	if len(got) != 2 || got[0] != index || got[1] != 0 {
		t.Errorf("min indexes of the reads = %v, want [%d 0]: a stale read asks for none", got, index)
	}
}

func TestForeignClusterIsRefusedAtOnce(t *testing.T) {
	mine, other := clienttest.NewCluster(t, 1), clienttest.NewCluster(t, 1)
	opts := mine.Options()
	bundle := proto.CloneOf(opts.Bundle)
	bundle.Nodes[0].Address = ""
	opts.Addresses, opts.Bundle = other.Addresses(), bundle
	c := newClient(t, opts)
	start := time.Now()
	err := members(t, c)
	if err == nil || !strings.Contains(err.Error(), "belongs to another cluster") {
		t.Errorf("error = %v, want one that says it is another cluster", err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("took %v, want at once: asking again does not help", took)
	}
}

func TestNewerBundleIsLearnt(t *testing.T) {
	cluster := clienttest.NewCluster(t, 1)
	opts := quick(cluster.Options())
	var learnt *agentplanev1.Bundle
	opts.OnBundle = func(b *agentplanev1.Bundle) { learnt = b }
	c := newClient(t, opts)
	added := cluster.AddNode("node-new")
	info := func() error {
		_, err := agentplanev1.NewClusterServiceClient(c).Info(t.Context(), &agentplanev1.InfoRequest{})
		return err
	}
	if err := info(); err != nil {
		t.Fatal(err)
	}
	if learnt == nil || len(learnt.Nodes) != 2 {
		t.Fatalf("OnBundle got %v, want the bundle of two nodes", learnt)
	}
	cluster.Nodes[0].Kill()
	if err := members(t, c); err != nil {
		t.Fatalf("the new node was not reached: %v", err)
	}
	if got := c.Address(); got != added.Address {
		t.Errorf("Address() = %s, want %s", got, added.Address)
	}
}

func TestCanceledWriteIsUnknown(t *testing.T) {
	cluster := clienttest.NewCluster(t, 1)
	c := newClient(t, quick(cluster.Options()))
	ctx, cancel := context.WithCancel(t.Context())
	cluster.Nodes[0].Break(func(ctx context.Context, _ string) (error, bool) {
		cancel()
		<-ctx.Done()
		return ctx.Err(), false
	})
	_, err := agentplanev1.NewCommandServiceClient(c).CancelCommand(ctx, &agentplanev1.CancelCommandRequest{Id: "x"})
	if e := asError(t, err); e.Code != codes.Canceled || !e.OutcomeUnknown {
		t.Errorf("code %v, unknown %v; want Canceled and unknown", e.Code, e.OutcomeUnknown)
	}
}
