package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/client/clienttest"
)

func TestSubmittedAgainItIsOneCommand(t *testing.T) {
	cluster := clienttest.NewCluster(t, 2)
	cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{})
	c := newClient(t, cluster.Options())
	cmd := &client.Command{Selector: "all", Argv: []string{"true"}}
	first, err := c.Submit(t.Context(), cmd)
	if err != nil {
		t.Fatal(err)
	}
	if cmd.ID == "" || first.Command.GetId() != cmd.ID || first.Repeated {
		t.Fatalf("id %q, answer %v", cmd.ID, first)
	}
	again, err := c.Submit(t.Context(), cmd)
	if err != nil || !again.Repeated {
		t.Fatalf("again: %v, %v", again, err)
	}
	if n := len(cluster.State.Commands()); n != 1 {
		t.Errorf("%d commands, want 1", n)
	}
	cmd.Argv = []string{"false"}
	if _, err := c.Submit(t.Context(), cmd); client.AsError(err).Code != codes.AlreadyExists {
		t.Errorf("other content under the same id: %v", err)
	}
}

func TestAnIDOutlivesALostAnswer(t *testing.T) {
	cluster := clienttest.NewCluster(t, 1)
	cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{})
	c := newClient(t, cluster.Options())
	if _, err := c.Now(t.Context()); err != nil { // so that what breaks is the submission
		t.Fatal(err)
	}
	lost := clienttest.Detailed(codes.Internal, "lost", &agentplanev1.ErrorDetail{Reason: "lost", OutcomeUnknown: true})
	cluster.Nodes[0].Break(func(context.Context, string) (error, bool) { return lost, true })
	cmd := &client.Command{Selector: "all", Argv: []string{"true"}}
	if _, err := c.Submit(t.Context(), cmd); !client.AsError(err).OutcomeUnknown || cmd.ID == "" {
		t.Fatalf("id %q, %v", cmd.ID, err)
	}
	cluster.Nodes[0].Break(nil)
	s, err := c.Submit(t.Context(), cmd)
	if err != nil || !s.Repeated {
		t.Fatalf("again: %v, %v", s, err)
	}
}

func TestEnvelopeHoldsWhatWasSaid(t *testing.T) {
	const id = "01890000-0000-7000-8000-000000000001"
	made, err := client.IDTime(id)
	if err != nil {
		t.Fatal(err)
	}
	incarnation := &agentplanev1.Incarnation{Number: 1, Id: []byte("x")}
	cmd := &client.Command{
		ID: id, Agents: []string{"a", "b"}, Script: []byte("#!/bin/sh\n"), RunTimeout: time.Minute, KillGrace: time.Second, Queue: true,
		TTL: time.Hour, Edit: func(s *agentplanev1.CommandSpec) error { s.Profile = "p"; return nil },
	}
	want := &agentplanev1.CommandSpec{
		ClusterId: "c", Incarnation: incarnation, CommandId: id, Agents: cmd.Agents, Script: cmd.Script, Profile: "p",
		RunTimeout: int64(time.Minute), KillGrace: int64(time.Second), NotAfter: made.Add(time.Hour).UnixNano(), QueueOffline: true,
	}
	if got := specOf(t, cmd, incarnation); !proto.Equal(got, want) {
		t.Errorf("spec %v\nwant %v", got, want)
	}

	// Once more, with another id.
	again, err := client.Rerun(want, agentplanev1.AttemptState_ATTEMPT_STATE_LOST)
	if err != nil {
		t.Fatal(err)
	}
	again.ID = "01890000-0001-7000-8000-000000000002"
	want.Agents, want.CommandId, want.RerunOf = nil, again.ID, id
	want.RerunStates = []agentplanev1.AttemptState{agentplanev1.AttemptState_ATTEMPT_STATE_LOST}
	want.NotAfter += int64(time.Millisecond)
	if got := specOf(t, again, incarnation); !proto.Equal(got, want) {
		t.Errorf("rerun %v\nwant  %v", got, want)
	}

	cmd.ID = "x"
	if _, err := cmd.Envelope("c", incarnation); err == nil {
		t.Error("a command whose id is no UUID has an envelope")
	}
	cmd.ID, cmd.Edit = id, func(*agentplanev1.CommandSpec) error { return errors.New("no") }
	if _, err := cmd.Envelope("c", incarnation); err == nil {
		t.Error("a command that cannot be edited has an envelope")
	}
}

func specOf(t *testing.T, cmd *client.Command, incarnation *agentplanev1.Incarnation) *agentplanev1.CommandSpec {
	t.Helper()
	b, err := cmd.Envelope("c", incarnation)
	if err != nil {
		t.Fatal(err)
	}
	var e agentplanev1.Envelope
	var spec agentplanev1.CommandSpec
	if err := errors.Join(proto.Unmarshal(b, &e), proto.Unmarshal(e.GetSpec(), &spec)); err != nil {
		t.Fatal(err)
	}
	return &spec
}

// A rerun takes over what a spec may learn to say one day, and not whom it meant.
func TestRerunKeepsEveryFieldButItsOwn(t *testing.T) {
	spec := &agentplanev1.CommandSpec{CommandId: "01890000-0000-7000-8000-000000000001", Profile: "sandbox", NotBefore: 5, Selector: "all", Traceparent: "t"}
	again, err := client.Rerun(spec, agentplanev1.AttemptState_ATTEMPT_STATE_FAILED)
	if err != nil {
		t.Fatal(err)
	}
	again.ID = "01890000-0000-7000-8000-000000000002"
	got := specOf(t, again, nil)
	if got.GetProfile() != "sandbox" || got.GetNotBefore() != 0 || got.GetSelector() != "" || got.GetTraceparent() != "" {
		t.Errorf("spec %v", got)
	}
}

func TestRerunWordsCoverEveryBadEndOnce(t *testing.T) {
	var single []agentplanev1.AttemptState
	for word, states := range client.RerunWords {
		if word != "all-not-succeeded" {
			single = append(single, states...)
		}
	}
	all := slices.Clone(client.RerunWords["all-not-succeeded"])
	slices.Sort(single)
	slices.Sort(all)
	var want []agentplanev1.AttemptState
	for n := range agentplanev1.AttemptState_name {
		if s := agentplanev1.AttemptState(n); client.Final(s) && s != agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED {
			want = append(want, s)
		}
	}
	slices.Sort(want)
	if !slices.Equal(single, want) || !slices.Equal(all, want) {
		t.Errorf("words mean %v, all of them %v, want %v", single, all, want)
	}
}

func TestPagesMakeOneList(t *testing.T) {
	cluster := clienttest.NewCluster(t, 1)
	cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{})
	c := newClient(t, cluster.Options())
	for n := range 5 {
		cmd := &client.Command{ID: fmt.Sprintf("01890000-0000-7000-8000-00000000000%d", n), Selector: "all", Argv: []string{"true"}}
		if _, err := c.Submit(t.Context(), cmd); err != nil {
			t.Fatal(err)
		}
	}
	page, err := c.ListCommands(t.Context(), client.CommandQuery{}, 2)
	if err != nil || len(page.Commands) != 2 || page.Next != page.Commands[1].Id {
		t.Fatalf("page %v, %v", page, err)
	}
	rest, err := client.Collect(c.Commands(t.Context(), client.CommandQuery{Before: page.Next}))
	if err != nil || len(rest) != 3 {
		t.Fatalf("the rest has %d, want 3: %v", len(rest), err)
	}
	for _, err := range c.Commands(t.Context(), client.CommandQuery{}) {
		if err != nil {
			t.Fatal(err)
		}
		break // a reader may leave
	}
}

// However many calls a node refuses for the certificate, one gets a fresh one.
func TestACertificateIsRefreshedOnceForAllCalls(t *testing.T) {
	cluster := clienttest.NewCluster(t, 1)
	var fresh atomic.Bool
	var asked atomic.Int32
	opts := cluster.Options()
	opts.OnExpired = func(context.Context) error {
		asked.Add(1)
		fresh.Store(true)
		return nil
	}
	expired := clienttest.Refusal(codes.Unauthenticated, "certificate_expired", "expired", "")
	cluster.Nodes[0].Break(func(context.Context, string) (error, bool) {
		if fresh.Load() {
			return nil, false
		}
		return expired, false
	})
	c := newClient(t, opts)
	var calls sync.WaitGroup
	for range 16 {
		calls.Go(func() {
			if _, err := c.Members(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("a fresh certificate was got %d times, want once", n)
	}
}

func TestARefusalStandsWhenThereIsNoFreshCertificate(t *testing.T) {
	cluster := clienttest.NewCluster(t, 1)
	opts := cluster.Options()
	var c *client.Client
	opts.OnExpired = func(ctx context.Context) error {
		_, err := c.Members(ctx) // refused as well, and nobody waits for anybody
		return err
	}
	expired := clienttest.Refusal(codes.Unauthenticated, "certificate_expired", "expired", "")
	cluster.Nodes[0].Break(func(context.Context, string) (error, bool) { return expired, false })
	c = newClient(t, opts)
	if _, err := c.Members(t.Context()); client.AsError(err).Reason != "certificate_expired" {
		t.Errorf("got %v", err)
	}
}
