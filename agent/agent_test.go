package agent

import (
	"bytes"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentplane/agentplane/agent/agenttest"
	"github.com/agentplane/agentplane/configs"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
)

const (
	running   = agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING
	succeeded = agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED
	failed    = agentplanev1.AttemptState_ATTEMPT_STATE_FAILED
	canceled  = agentplanev1.AttemptState_ATTEMPT_STATE_CANCELED
	rejected  = agentplanev1.AttemptState_ATTEMPT_STATE_REJECTED
	lost      = agentplanev1.AttemptState_ATTEMPT_STATE_LOST
)

func TestAgentEnrolsAndRunsAProgram(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c, func(a *configs.Agent) { a.Labels = map[string]string{"env": "prod"} })
	id := h.ready()
	inv := c.Submit(id, c.Spec(h.mark("echo out; echo err >&2; exit 3")...))
	r := c.Wait(inv)
	if r.GetState() != failed || r.GetExitCode() != 3 || string(r.GetStdout().GetHead()) != "out\n" || string(r.GetStderr().GetHead()) != "err\n" || r.GetStdout().GetTotalBytes() != 4 {
		t.Errorf("report is %v", r)
	}
	if r.GetFence() != 1000 || r.GetStartedAt() == 0 || r.GetEndedAt() < r.GetStartedAt() {
		t.Errorf("report is %v, want the fence of the claim and the times", r)
	}
	h.wantMarks(inv, 1)
	c.Until("the facts are there", func() bool { return c.Agent(id).Facts["os"] != "" })
	a := c.Agent(id)
	if a.Name != "web-1" || a.Labels["env"] != "prod" || a.Facts["agent_version"] != "test" {
		t.Errorf("agent is %+v", a)
	}
	beats := a.Beats
	c.Until("it beats", func() bool { return c.Agent(id).Beats > beats+2 })
	h.stop()
	if g := c.Agent(id).Goodbye; g == nil {
		t.Error("no goodbye was said")
	}
	for _, name := range []string{"", keyFile, recordFile, certificateFile, trustFile} {
		st, err := os.Stat(filepath.Join(h.dir, name))
		if err != nil || st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%q: %v %v, want nobody else to have access", name, st.Mode(), err)
		}
	}
}

func TestSecondStartNeedsNoTokenAndKeepsWhoItIs(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	hello := c.Agent(id).Hellos[0]
	h.stop()
	h.config.Token, h.config.Servers = "", nil
	epoch := c.Agent(id).Epoch
	h.start()
	if again := c.WaitReady(epoch); again != id {
		t.Fatalf("the agent came back as %s, want %s", again, id)
	}
	second := c.Agent(id).Hellos[1]
	if string(second.GetJournal().GetId()) != string(hello.GetJournal().GetId()) || second.GetPreviousEpoch() != epoch ||
		second.GetJournal().GetFloor() == 0 || string(second.GetStartId()) == string(hello.GetStartId()) || second.GetBootId() == "" {
		t.Errorf("first %v\nsecond %v", hello, second)
	}
	h.stop()
	h.config.Token = "apt1.not.a-token" // not looked at
	h.start()
	c.WaitReady(epoch + 1)
}

func TestWhatKeepsAnAgentFromStarting(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	other := agenttest.NewCluster(t, 1)
	for name, x := range map[string]struct {
		change func(*configs.Agent)
		want   error
	}{
		"no token":                  {func(a *configs.Agent) { a.Token = "" }, ErrNotEnrolled},
		"nonsense for a token":      {func(a *configs.Agent) { a.Token = "abc" }, ErrToken},
		"no address":                {func(a *configs.Agent) { a.Servers = nil }, ErrToken},
		"a token that is not known": {func(a *configs.Agent) { a.Token = other.Token() }, ErrEnrolment},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, c, x.change)
			h.start()
			defer func() { h.cancel = nil }()
			select {
			case err := <-h.done:
				if !errors.Is(err, x.want) {
					t.Errorf("Run = %v, want %v", err, x.want)
				}
			case <-time.After(10 * time.Second):
				t.Error("Run goes on")
				h.cancel()
				t.Logf("after it was told to stop: %v", <-h.done)
			}
		})
	}
	t.Run("another agentd", func(t *testing.T) {
		h := newHost(t, c)
		h.ready()
		second := newHost(t, c)
		second.config.DataDir = h.dir
		second.start()
		second.cancel = nil
		if err := <-second.done; !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "process") {
			t.Errorf("Run = %v, want %v with its process", err, ErrInUse)
		}
	})
}

func TestEnrolmentWaitsForANode(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	c.Nodes[0].Kill()
	h := newHost(t, c, func(a *configs.Agent) {
		a.Token, a.Servers = "", nil
		a.TokenFile = filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(a.TokenFile, []byte(c.Token()+"@"+c.Addresses()[0]+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	// Whoever listens there meanwhile sees that it tries, and answers nothing.
	ln, err := net.Listen("tcp", c.Addresses()[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := ln.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	h.start()
	tried, err := ln.Accept()
	if err != nil {
		t.Fatalf("it does not try: %v", err)
	}
	if err := errors.Join(tried.Close(), ln.Close()); err != nil {
		t.Fatal(err)
	}
	c.Nodes[0].Restart()
	c.WaitReady(0)
}

func TestRunningProgramsOutliveTheAgentAndAreAdopted(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	release := filepath.Join(t.TempDir(), "release")
	inv := c.Submit(id, c.Spec(h.mark("while [ ! -e "+release+" ]; do sleep 0.05; done; echo survived")...))
	r := c.WaitState(inv, running)
	if r.GetStartedAt() == 0 {
		t.Errorf("RUNNING has no time: %v", r)
	}
	epoch := c.Agent(id).Epoch
	h.stop()
	h.start()
	c.WaitReady(epoch)
	hellos := c.Agent(id).Hellos
	if open := hellos[len(hellos)-1].GetOpen(); len(open) != 1 || open[0].GetInvocationId() != inv || open[0].GetState() != running {
		t.Errorf("Hello has %v open, want the attempt that runs", open)
	}
	if err := os.WriteFile(release, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := c.Wait(inv); r.GetState() != succeeded || string(r.GetStdout().GetHead()) != "survived\n" {
		t.Errorf("report is %v", r)
	}
	h.wantMarks(inv, 1)
}

func TestAgentGoesOnWithAnotherNode(t *testing.T) {
	c := agenttest.NewCluster(t, 3)
	h := newHost(t, c, func(a *configs.Agent) { a.Servers = a.Servers[:1] })
	id := h.ready()
	c.Confirming(false)
	inv := c.Submit(id, c.Spec(h.mark("")...))
	c.Wait(inv)
	for range 2 {
		state := c.Agent(id)
		for _, n := range c.Nodes {
			if n.ID == state.Node {
				n.Kill()
			}
		}
		c.WaitReady(state.Epoch)
		hellos := c.Agent(id).Hellos
		if open := hellos[len(hellos)-1].GetOpen(); len(open) != 1 || open[0].GetState() != succeeded {
			t.Fatalf("Hello has %v open, want the result that nobody confirmed", open)
		}
		c.Confirming(true)
	}
	h.wantMarks(inv, 1)
}

func TestSilentNodeIsLeftAndTrustIsKept(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	c.Silence(true)
	epoch := c.Agent(id).Epoch
	// Three beats of 200 ms are below the least patience of 3 s.
	c.Until("the session is opened anew", func() bool { return c.Agent(id).Epoch > epoch })
	c.Silence(false)
	b := c.Raise()
	c.Until("a session stands", func() bool { return c.Agent(id).Ready })
	c.Send(id, &agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Trust{Trust: &agentplanev1.TrustUpdate{Bundle: b}}})
	eventually(t, "the bundle is stored", func() bool {
		data, err := os.ReadFile(filepath.Join(h.dir, trustFile))
		if err != nil {
			t.Fatal(err)
		}
		stored, err := identity.ParseBundle(data)
		if err != nil {
			t.Fatal(err)
		}
		return stored.Index == b.GetIndex()
	})
}

func TestCertificateIsRenewedAtHalfLifeAndWhenExpired(t *testing.T) {
	c := agenttest.NewCluster(t, 2)
	c.Certificates(time.Hour, 40*time.Minute)
	h := newHost(t, c)
	h.start()
	id := c.WaitReady(0)
	c.Until("the certificate past half its life is renewed", func() bool { return c.Agent(id).Renewals >= 1 })
	h.stop()

	// A certificate that has expired opens no session, but gets another one.
	stored := func() *x509.Certificate {
		t.Helper()
		der, err := os.ReadFile(filepath.Join(h.dir, certificateFile))
		if err != nil {
			t.Fatal(err)
		}
		_, _, leaf, err := identity.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return leaf
	}
	c.Certificates(time.Hour, 2*time.Hour)
	h.start()
	eventually(t, "the certificate that has expired is renewed", func() bool { return !stored().NotAfter.After(time.Now()) })
	h.stop()
	before := c.Agent(id)
	c.Certificates(24*time.Hour, 0)
	h.start()
	c.WaitReady(before.Epoch)
	if c.Agent(id).Renewals != before.Renewals+1 {
		t.Errorf("%d renewals, want one more than %d", c.Agent(id).Renewals, before.Renewals)
	}
	if leaf := stored(); time.Until(leaf.NotAfter) < 20*time.Hour {
		t.Errorf("stored certificate ends %v, want a fresh one", leaf.NotAfter)
	}
}

func TestNewJournalOnDemand(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	old := c.Submit(id, c.Spec(h.mark("")...))
	c.Wait(old)
	first := c.Agent(id)
	h.stop()
	floor := time.Now().UnixNano()
	c.Refuse(func(hello *agentplanev1.Hello) *agentplanev1.Refused {
		if string(hello.GetJournal().GetId()) == string(first.Hellos[0].GetJournal().GetId()) {
			return &agentplanev1.Refused{Reason: "new_journal", Now: floor}
		}
		return nil
	})
	h.start()
	c.WaitReady(first.Epoch)
	a := c.Agent(id)
	if j := a.Hellos[len(a.Hellos)-1].GetJournal(); j.GetFloor() != floor {
		t.Errorf("the new journal has floor %d, want %d", j.GetFloor(), floor)
	}
	// What the old journal knew cannot start again.
	c.Forget(old)
	c.Redeliver(old)
	if r := c.Wait(old); r.GetState() != rejected || r.GetReason() != "forgotten" {
		t.Errorf("an older command was answered %v", r)
	}
	h.wantMarks(old, 1)
	inv := c.Submit(id, c.Spec(h.mark("")...))
	if r := c.Wait(inv); r.GetState() != succeeded {
		t.Errorf("a newer command was answered %v", r)
	}
}

// What was to be told from the journal before is not told from the new one, whose numbers are
// others: the cluster would wait for records that this one does not have.
func TestNewJournalTellsNothingOfTheOldOne(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	ended := h.listen()
	id := h.ready()
	for range 3 {
		c.Wait(c.Submit(id, c.Spec("true")))
	}
	let := filepath.Join(t.TempDir(), "go")
	inv := c.Submit(id, c.Spec("/bin/sh", "-c", "while [ ! -e "+let+" ]; do sleep 0.01; done"))
	c.WaitState(inv, running)
	h.stop()
	first := c.Agent(id)
	refusal := &agentplanev1.Refused{Reason: "rate", RetryAfterMs: 50}
	var mu sync.Mutex // guards refusal
	c.Refuse(func(hello *agentplanev1.Hello) *agentplanev1.Refused {
		mu.Lock()
		defer mu.Unlock()
		if bytes.Equal(hello.GetJournal().GetId(), first.Hellos[0].GetJournal().GetId()) {
			return refusal
		}
		return nil
	})
	h.start()
	c.Until("it comes again", func() bool { return len(c.Agent(id).Hellos) > len(first.Hellos) })
	if err := os.WriteFile(let, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ended("attempt ended: attempt=1 invocation_id=" + inv)
	told := len(c.Reports(inv))
	mu.Lock()
	refusal = &agentplanev1.Refused{Reason: "new_journal", Now: time.Now().UnixNano()}
	mu.Unlock()
	c.WaitReady(first.Epoch)
	c.Wait(c.Submit(id, c.Spec("true"))) // which is told behind all that waited
	for _, r := range c.Reports(inv)[told:] {
		if r.GetState() != rejected || r.GetReason() != "forgotten" {
			t.Errorf("behind the new journal the old one's attempt is told as %v", r)
		}
	}
}

func TestTrustBelievesNoOlderLife(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	h.ready()
	h.stop()
	tr, err := loadTrust(filepath.Join(h.dir, trustFile), []string{"127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func(*agentplanev1.Bundle)) *agentplanev1.Bundle {
		b := c.Raise()
		f(b)
		return b
	}
	newer := change(func(b *agentplanev1.Bundle) {
		b.Incarnation = &agentplanev1.Incarnation{Number: 2, Id: b.Incarnation.Id}
		b.Index = 1
	})
	if err := tr.Learn(newer); err != nil || tr.Incarnation().GetNumber() != 2 {
		t.Fatalf("a later life was not taken: %v", err)
	}
	older := change(func(b *agentplanev1.Bundle) {
		b.Incarnation = &agentplanev1.Incarnation{Number: 1, Id: b.Incarnation.Id}
		b.Index = 99
	})
	if err := tr.Learn(older); err != nil || tr.Incarnation().GetNumber() != 2 {
		t.Fatalf("an older life was taken: %v", err)
	}
	foreign := change(func(b *agentplanev1.Bundle) { b.ClusterId = "other" })
	if err := tr.Learn(foreign); err == nil {
		t.Fatal("a bundle of another cluster was taken")
	}
	again, err := loadTrust(tr.path, nil)
	if err != nil || again.Incarnation().GetNumber() != 2 {
		t.Fatalf("after a restart: %v %v", again.Incarnation(), err)
	}
	if d := cmp.Diff([]string{c.Addresses()[0], "127.0.0.1:1"}, tr.addresses()); d != "" {
		t.Error(d)
	}
}
