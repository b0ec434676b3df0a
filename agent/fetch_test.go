package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/agent/agenttest"
	"github.com/agentplane/agentplane/configs"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// bringing is a command with a file, whose program prints file and input.
func bringing(c *agenttest.Cluster, h *host, path string, content, input *agentplanev1.Blob) *agentplanev1.CommandSpec {
	spec := c.Spec(h.mark("cat; cat " + path)...)
	spec.Files = []*agentplanev1.File{{Path: path, Mode: 0o600, Content: content}}
	spec.Stdin = input
	return spec
}

func headOf(r *agentplanev1.Report) string { return string(r.GetStdout().GetHead()) }

func TestWhatACommandBringsIsFetchedOnceAndUsed(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	path := filepath.Join(t.TempDir(), "x.conf")
	large := strings.Repeat("x", 300_000)
	content, input := c.Have(large), c.Have("input\n")
	inv := c.Submit(id, bringing(c, h, path, content, input))
	if r := c.Wait(inv); r.GetState() != succeeded || r.GetStdout().GetTotalBytes() != uint64(len(large))+6 || !strings.HasPrefix(headOf(r), "input\n") {
		t.Fatalf("report is %v", r)
	}
	if c.Fetched() != 2 {
		t.Errorf("it asked %d times, want 2", c.Fetched())
	}
	again := c.Submit(id, bringing(c, h, path, content, input))
	if r := c.Wait(again); r.GetState() != succeeded || c.Fetched() != 2 {
		t.Errorf("again: %v, asked %d times; want it from the cache", r.GetState(), c.Fetched())
	}
	h.wantMarks(inv, 1)
	st, err := os.Stat(filepath.Join(h.dir, blobsDir, content.GetSha256()))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the cache's file: %v (%v)", st, err)
	}
}

// What does not come is asked for again a few times; what nobody has is refused at once,
// before anything was started.
func TestWithoutItsFilesACommandIsRejected(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	content := c.Have("never sent")
	path := filepath.Join(t.TempDir(), "x")

	tries := 0
	c.Fetching(func(*agentplanev1.FetchBlobRequest, <-chan struct{}) error {
		if tries++; tries < 3 {
			return agentplanev1.Refusal(codes.Unavailable, &agentplanev1.ErrorDetail{Reason: "blob_absent"}, "not now")
		}
		return nil
	})
	inv := c.Submit(id, bringing(c, h, path, content, nil))
	if r := c.Wait(inv); r.GetState() != succeeded || tries != 3 {
		t.Errorf("after two refusals: %v, %d tries", r, tries)
	}
	renewals := c.Agent(id).Renewals
	c.Fetching(func(*agentplanev1.FetchBlobRequest, <-chan struct{}) error {
		return agentplanev1.Refusal(codes.PermissionDenied, &agentplanev1.ErrorDetail{Reason: "not_claimed"}, "it was canceled")
	})
	if r := c.Wait(c.Submit(id, bringing(c, h, path, c.Have("refused"), nil))); r.GetState() != rejected || r.GetReason() != "no_file" {
		t.Errorf("after a refusal of the command: %v", r)
	}
	if n := c.Agent(id).Renewals; n != renewals {
		t.Errorf("a refusal of the command has had the certificate renewed: %d, were %d", n, renewals)
	}
	c.Fetching(nil)
	for name, lose := range map[string]func(*agentplanev1.Blob){
		"nobody has it":    c.Lose,
		"it is another":    func(b *agentplanev1.Blob) { c.Spoil(b, "never sont") },
		"it is too much":   func(b *agentplanev1.Blob) { c.Spoil(b, strings.Repeat("never", 100)) },
		"it is too little": func(b *agentplanev1.Blob) { c.Spoil(b, "never") },
	} {
		if name != "nobody has it" && testing.Short() {
			continue // each is tried several times
		}
		b := c.Have(name)
		lose(b)
		spec := bringing(c, h, path, b, nil)
		spec.NotAfter = time.Now().Add(4 * time.Second).UnixNano()
		inv := c.Submit(id, spec)
		r := c.Wait(inv)
		if r.GetState() != rejected || r.GetReason() != "no_file" && r.GetReason() != "expired" || r.GetDetail() == "" || r.GetStartedAt() != 0 {
			t.Errorf("%s: %v, want REJECTED(no_file)", name, r)
		}
		h.wantMarks(inv, 0)
		c.Redeliver(inv)
	}
}

// The issuer of the certificate may leave while a session stands, which goes on. What begins
// later is refused, and has the certificate renewed: nobody else would for a long time.
func TestRefusedFetchRenewsTheCertificate(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	session, renewals := c.Agent(id).Epoch, c.Agent(id).Renewals
	c.Fetching(func(*agentplanev1.FetchBlobRequest, <-chan struct{}) error {
		if c.Agent(id).Renewals == renewals {
			return agentplanev1.Refusal(codes.Unauthenticated, &agentplanev1.ErrorDetail{Reason: "certificate_expired"}, "its issuer has left")
		}
		return nil
	})
	inv := c.Submit(id, bringing(c, h, filepath.Join(t.TempDir(), "x"), c.Have("content"), nil))
	if r := c.Wait(inv); r.GetState() != succeeded {
		t.Errorf("report is %v after %d renewals", r, c.Agent(id).Renewals-renewals)
	}
	if now := c.Agent(id).Epoch; now != session {
		t.Errorf("the session %d did not stand: it is %d", session, now)
	}
}

// A session that waits for files goes on with everything else, and a cancel counts at once.
func TestFetchingHoldsNothingUp(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c, func(a *configs.Agent) { a.Slots = 2 })
	id := h.ready()
	c.Fetching(func(_ *agentplanev1.FetchBlobRequest, done <-chan struct{}) error {
		<-done
		return errors.New("too late")
	})
	path := filepath.Join(t.TempDir(), "x")
	slow := c.Submit(id, bringing(c, h, path, c.Have("slow"), nil))
	c.Until("it is asked for", func() bool { return c.Fetched() > 0 })
	c.Redeliver(slow) // known
	quick := c.Submit(id, c.Spec(h.mark("")...))
	if r := c.Wait(quick); r.GetState() != succeeded {
		t.Errorf("another one meanwhile: %v", r)
	}
	c.Cancel(id, slow)
	if r := c.Wait(slow); r.GetState() != canceled || r.GetFence() == 0 {
		t.Errorf("canceled while its file was on its way: %v", r)
	}
	h.wantMarks(slow, 0)

	spec := bringing(c, h, path, c.Have("late"), nil)
	spec.NotAfter = time.Now().Add(time.Second).UnixNano()
	late := c.Submit(id, spec)
	if r := c.Wait(late); r.GetState() != rejected || r.GetReason() != "expired" && r.GetReason() != "no_file" {
		t.Errorf("its time is over before its file comes: %v", r)
	}
	h.wantMarks(late, 0)
}

// agentd dies between fetch and intent: the next life has the file, and starts the attempt
// when it is delivered again.
func TestTheNextLifeGoesOnWithWhatHasCome(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c, func(a *configs.Agent) { a.Slots = 1 })
	id := h.ready()
	holds := c.Submit(id, c.Spec(h.mark("sleep 60")...))
	c.WaitState(holds, running)
	path := filepath.Join(t.TempDir(), "x")
	content, input := c.Have("the file"), c.Have("the input, ")
	inv := c.Submit(id, bringing(c, h, path, content, input))
	c.Until("both are there", func() bool {
		_, err := os.Stat(filepath.Join(h.dir, blobsDir, content.GetSha256()))
		_, err2 := os.Stat(filepath.Join(h.dir, blobsDir, input.GetSha256()))
		if err != nil || err2 != nil {
			c.Redeliver(holds) // so that somebody looks again
		}
		return err == nil && err2 == nil
	})
	h.stop()
	h.wantMarks(inv, 0)
	c.Lose(content)
	c.Lose(input)
	epoch := c.Agent(id).Epoch
	h.start()
	c.WaitReady(epoch)
	c.Redeliver(inv)
	c.Cancel(id, holds)
	if r := c.Wait(inv); r.GetState() != succeeded || headOf(r) != "the input, the file" {
		t.Errorf("report is %v", r)
	}
	h.wantMarks(inv, 1)
}

// A session that breaks while a file is on its way begins it anew on the next node.
func TestTheNextNodeIsAsked(t *testing.T) {
	c := agenttest.NewCluster(t, 2)
	h := newHost(t, c)
	id := h.ready()
	block := true
	c.Fetching(func(_ *agentplanev1.FetchBlobRequest, done <-chan struct{}) error {
		if block {
			block = false
			<-done
			return errors.New("the node dies")
		}
		return nil
	})
	inv := c.Submit(id, bringing(c, h, filepath.Join(t.TempDir(), "x"), c.Have("moved"), nil))
	c.Until("it is asked for", func() bool { return c.Fetched() > 0 })
	first := c.Agent(id)
	for _, n := range c.Nodes {
		if n.ID == first.Node {
			n.Kill()
		}
	}
	c.WaitReady(first.Epoch)
	c.Redeliver(inv)
	if r := c.Wait(inv); r.GetState() != succeeded || headOf(r) != "moved" {
		t.Errorf("report is %v", r)
	}
	h.wantMarks(inv, 1)
}

func TestFilesThatNobodyMayBringAreInvalid(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	content := c.Have("x")
	for _, path := range []string{"x", "/a/../b", "/"} {
		inv := c.Submit(id, bringing(c, h, path, content, nil))
		if r := c.Wait(inv); r.GetState() != rejected || r.GetReason() != "invalid" {
			t.Errorf("%q: %v", path, r)
		}
	}
	inv := c.Submit(id, bringing(c, h, "/no/such/directory/x", content, nil))
	r := c.Wait(inv)
	if r.GetState() != agentplanev1.AttemptState_ATTEMPT_STATE_FAILED || r.GetReason() != "not_placed" || !strings.Contains(r.GetDetail(), "/no/such/directory/x") || r.GetStartedAt() != 0 {
		t.Errorf("no such directory: %v", r)
	}
	h.wantMarks(inv, 0)
}
