package main

import (
	"testing"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

func TestProbesSayHowTheyEnded(t *testing.T) {
	for _, c := range []struct {
		w    *agentplanev1.Wave
		want string
	}{
		{&agentplanev1.Wave{}, ""},
		{&agentplanev1.Wave{PassedOver: true}, "passed over: nobody is in it"},
		{&agentplanev1.Wave{ProbeId: "p"}, "runs"},
		{&agentplanev1.Wave{ProbeId: "p", Probed: true}, "succeeded"},
		{&agentplanev1.Wave{ProbeId: "p", Probed: true, ProbeFailed: true}, "failed"},
		{&agentplanev1.Wave{ProbeId: "p", Probed: true, ProbeFailed: true, OpenedBy: "ann"}, "failed; resumed by ann"},
		{&agentplanev1.Wave{OpenedBy: "ann"}, "resumed by ann"},
	} {
		if got := probeText(c.w); got != c.want {
			t.Errorf("%v is %q, want %q", c.w, got, c.want)
		}
	}
}
