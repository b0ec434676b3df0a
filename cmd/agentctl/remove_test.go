package main

import (
	"strings"
	"testing"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

func TestVotersThatMayLiveAreAskedFor(t *testing.T) {
	for _, c := range []struct {
		voter bool
		state string
		want  bool
	}{
		{true, "alive", true},
		{true, "unknown", true}, // nobody has heard of it yet, which is no death
		{true, "dead", false},
		{true, "left", false},
		{false, "alive", false},
	} {
		if got := mustAsk(&agentplanev1.Member{Voter: c.voter, State: c.state}); got != c.want {
			t.Errorf("voter %v, %s: %v, want %v", c.voter, c.state, got, c.want)
		}
	}
}

func TestOnlyYesIsYes(t *testing.T) {
	for text, want := range map[string]bool{"y\n": true, " YES \n": true, "yes": true, "\n": false, "": false, "no\n": false, "yep\n": false, "n\ny\n": false} {
		if got := saysYes(strings.NewReader(text)); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
