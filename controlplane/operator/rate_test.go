package operator

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

func TestOperatorSubmitsNoMoreThanTheRate(t *testing.T) {
	w := fleetWorld(t, func(o *Options) { o.RatePerOperator, o.RateBurst = 1, 3 })
	stands := w.spec("all")
	w.submit(stands)
	r, err := w.batch(stands, w.spec("all"), stands, w.spec("all"), w.spec("all"), stands)
	if err != nil {
		t.Fatal(err)
	}
	for n, a := range r.GetAnswers() {
		if refused := a.GetRefusal() != nil; refused != (n == 4) {
			t.Errorf("envelope %d: %v", n, a)
		}
	}
	f := r.GetAnswers()[4].GetRefusal()
	if codes.Code(f.GetCode()) != codes.ResourceExhausted || f.GetDetail().GetReason() != "operator_rate" ||
		f.GetDetail().GetRetryAfterMs() == 0 || f.GetDetail().GetRetryAfterMs() > 1001 || f.GetDetail().GetHint() == "" {
		t.Errorf("refusal %v", f)
	}
	w.caller.name = "bob"
	w.submit(w.spec("all"))
	w.caller.name = "alice"
	_, err = w.Commands.Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope(t, w.spec("all"))})
	wantRefusal(t, err, codes.ResourceExhausted, "operator_rate")
	w.submit(stands)
}

func TestRateComesBackAndIsForgotten(t *testing.T) {
	r := submitRate{perSecond: 2, burst: 1}
	now := testStart
	if wait := r.take("a", now); wait != 0 {
		t.Fatalf("the first waits %v", wait)
	}
	for range 3 { // asking costs nothing
		if wait := r.take("a", now); wait != 500*time.Millisecond {
			t.Fatalf("the second waits %v, want 500ms", wait)
		}
	}
	if wait := r.take("a", now.Add(500*time.Millisecond)); wait != 0 {
		t.Fatalf("it still waits %v", wait)
	}
	for n := range 3 * maxLimiters {
		r.take(time.Duration(n).String(), now)
	}
	if len(r.limiters) > maxLimiters {
		t.Errorf("%d callers are remembered", len(r.limiters))
	}
}
