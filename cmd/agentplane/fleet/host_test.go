package fleet

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/agent/session"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

const epoch = 7

// bench is a host in a session.
func bench(p Program) (*host, *Witness) {
	w := &Witness{}
	h := newHost(w, 1, p, 0)
	_ = h.Begin(session.Grant{Incarnation: &agentplanev1.Incarnation{Number: 1}, Epoch: epoch})
	return h, w
}

// delivery is of the n-th command.
func delivery(t *testing.T, n int) *agentplanev1.Deliver {
	t.Helper()
	command := fmt.Sprintf("c%d", n)
	spec, err := proto.Marshal(&agentplanev1.CommandSpec{CommandId: command, NotAfter: 1 << 62, RunTimeout: int64(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	env, err := proto.Marshal(&agentplanev1.Envelope{Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	return &agentplanev1.Deliver{
		InvocationId: command + ".1", Attempt: 1, CommandId: command, Fence: uint64(n + 1), Incarnation: 1, SessionEpoch: epoch, Envelope: env, SubmittedAt: int64(n + 1),
	}
}

func deliver(h *host, d *agentplanev1.Deliver) {
	h.Offer(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Deliver{Deliver: d}})
}

// told is what was said last; nil when nothing is said.
func told(h *host) (last *agentplanev1.Report) {
	for {
		select {
		case last = <-h.reports:
		default:
			return last
		}
	}
}

func TestASecondDeliveryIsAnsweredAndStartsNothing(t *testing.T) {
	h, w := bench(Program{})
	d := delivery(t, 0)
	deliver(h, d)
	first := told(h)
	deliver(h, d)
	again := told(h)
	if first.GetState() != agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED || !proto.Equal(first, again) {
		t.Errorf("it told %v, and then %v", first, again)
	}
	if n := w.Starts("c0")[Attempt{"c0", "c0.1", 1}]; n != 1 {
		t.Errorf("%d starts", n)
	}
	h.Offer(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Confirm{Confirm: &agentplanev1.Confirm{InvocationId: "c0.1", Attempt: 1, JournalSeq: first.GetJournalSeq()}}})
	if s, _ := h.Standing(); len(s.Open) != 0 || s.Journal.GetSeq() != first.GetJournalSeq() {
		t.Errorf("after the confirmation it stands at %v", s)
	}
}

func TestWhatIsCanceledBeforeItsDeliveryNeverStarts(t *testing.T) {
	h, w := bench(Program{})
	h.Offer(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Cancel{Cancel: &agentplanev1.CancelAttempt{InvocationId: "c0.1", Attempt: 1, SessionEpoch: epoch}}})
	deliver(h, delivery(t, 0))
	if r := told(h); r.GetState() != agentplanev1.AttemptState_ATTEMPT_STATE_CANCELED || r.GetFence() != 1 || len(w.Starts("c0")) != 0 {
		t.Errorf("it told %v and started %v", r, w.Starts("c0"))
	}
}

func TestSlowProgramsTellThatTheyRunAndCanBeCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := bench(Program{Slow: time.Hour})
		deliver(h, delivery(t, 0))
		time.Sleep(tellRunningAfter)
		synctest.Wait()
		if r := told(h); r.GetState() != agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING || h.Running() != 1 {
			t.Errorf("after 200 ms it told %v", r)
		}
		h.Offer(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Cancel{Cancel: &agentplanev1.CancelAttempt{InvocationId: "c0.1", Attempt: 1, SessionEpoch: epoch}}})
		if r := told(h); r.GetState() != agentplanev1.AttemptState_ATTEMPT_STATE_CANCELED || h.Running() != 0 {
			t.Errorf("canceled it told %v", r)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if r := told(h); r != nil {
			t.Errorf("long after its end it told %v", r)
		}
	})
}

func TestWhatTheJournalForgotIsRefused(t *testing.T) {
	h, w := bench(Program{})
	for n := range maxRecords + 10 {
		d := delivery(t, n)
		deliver(h, d)
		h.Offer(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Confirm{Confirm: &agentplanev1.Confirm{InvocationId: d.GetInvocationId(), Attempt: 1, JournalSeq: 1 << 60}}})
	}
	told(h)
	if len(h.records) > maxRecords || len(h.order) != len(h.records) {
		t.Errorf("%d records, %d in order", len(h.records), len(h.order))
	}
	deliver(h, delivery(t, 0))
	if r := told(h); r.GetState() != agentplanev1.AttemptState_ATTEMPT_STATE_REJECTED || r.GetReason() != "forgotten" {
		t.Errorf("it told %v of what it has forgotten", r)
	}
	if err := w.Twice(); err != nil {
		t.Error(err)
	}
}

func TestAnUnknownAttemptIsLostWhenAsked(t *testing.T) {
	h, w := bench(Program{})
	h.Offer(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Ask{Ask: &agentplanev1.Ask{InvocationId: "c0.1", Attempt: 1, Fence: 1}}})
	if r := told(h); r.GetState() != agentplanev1.AttemptState_ATTEMPT_STATE_LOST || r.GetReason() != "unknown" {
		t.Errorf("it told %v", r)
	}
	deliver(h, delivery(t, 0))
	if len(w.Starts("c0")) != 0 {
		t.Error("what was called lost has started")
	}
}

func TestTheWitnessSeesASecondStart(t *testing.T) {
	w := &Witness{}
	a := Attempt{"c", "c.1", 1}
	w.start(a)
	if err := w.Twice(); err != nil {
		t.Error(err)
	}
	w.start(a)
	if w.Twice() == nil {
		t.Error("two starts were not seen")
	}
	w.Forget("c")
	if len(w.Starts("c")) != 0 || w.Twice() != nil {
		t.Error("what was forgotten is still there")
	}
}

func TestTheWitnessSeesWhatIsAtStake(t *testing.T) {
	w := &Witness{}
	for n := range uint32(3) {
		w.start(Attempt{"c", "c.1", n})
	}
	w.end("c", false)
	w.end("c", true)
	w.start(Attempt{"c", "c.2", 1}) // two run, one has failed
	if n := w.MostAtStake("c"); n != 3 {
		t.Errorf("%d were at stake, want 3", n)
	}
	w.start(Attempt{"c", "c.3", 1})
	w.end("c", true)
	w.start(Attempt{"d", "d.1", 1})
	if n := w.MostAtStake("c"); n != 4 {
		t.Errorf("%d were at stake, want 4", n)
	}
	if w.Forget("c"); w.MostAtStake("c") != 0 || w.MostAtStake("d") != 1 {
		t.Errorf("of what was forgotten %d are at stake, of the other %d", w.MostAtStake("c"), w.MostAtStake("d"))
	}
}

func TestProgramsKeepTheirShares(t *testing.T) {
	p := Program{Fail: 0.25, Mute: 0.1, Slow: time.Minute}
	r := rand.New(rand.NewPCG(1, 2))
	failed, mute, over := 0, 0, 0
	for range 10_000 {
		c := p.draw(r, 30*time.Second)
		switch {
		case c.takes > 30*time.Second:
			t.Fatalf("a program runs for %v, its timeout is 30s", c.takes)
		case c.state == agentplanev1.AttemptState_ATTEMPT_STATE_TIMED_OUT:
			over++
		case c.state == agentplanev1.AttemptState_ATTEMPT_STATE_FAILED:
			failed++
		}
		if c.mute {
			mute++
		}
	}
	if failed < 1100 || failed > 1400 || mute < 900 || mute > 1100 || over < 4800 || over > 5200 {
		t.Errorf("of 10000 programs %d failed, %d are mute, %d took too long", failed, mute, over)
	}
	for _, bad := range []Program{{Fail: -1}, {Mute: 2}, {Slow: -1}} {
		if bad.Validate() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}
