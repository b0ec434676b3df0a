package controlplane

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agentplane/agentplane/controlplane/consensus"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

func TestJoinSpeaksOfEachStepAndNowAndThen(t *testing.T) {
	var talk joinTalk
	var said []string
	start := time.Now()
	for i := range 200 { // 40 s
		r := &agentplanev1.JoinResponse{Step: "adding", Text: "no leader"}
		if i >= 10 { // 2 s
			r.Step, r.Text = "catching_up", "at entry"
		}
		if i >= 12 && i < 24 {
			r.Text = strings.Repeat("at entry ", i)
		}
		if at := time.Duration(i) * 200 * time.Millisecond; talk.worth(r, start.Add(at)) {
			said = append(said, at.String()+" "+r.GetStep())
		}
	}
	if want := []string{"0s adding", "2s catching_up", "4s catching_up", "6s catching_up", "21s catching_up", "36s catching_up"}; !slices.Equal(said, want) {
		t.Errorf("a join says something at %q, want %q", said, want)
	}
}

func TestANodeWithoutSpaceDoesNotBegin(t *testing.T) {
	free := func(n uint64, err error) func(string) (uint64, error) {
		return func(string) (uint64, error) { return n, err }
	}
	if err := roomy("/d", free(consensus.FreeFloorBytes, nil)); err != nil {
		t.Errorf("with enough space: %v", err)
	}
	err := roomy("/d", free(12<<20, nil))
	if d := agentplanev1.DetailOf(err); d.GetReason() != "no_space" || d.GetHint() == "" || !strings.Contains(err.Error(), "there are 12 MiB of free space in /d, and a node needs 256 MiB") {
		t.Errorf("with little space: %v", err)
	}
	if err := roomy("/d", free(0, errors.New("hm"))); agentplanev1.DetailOf(err).GetReason() != "no_space" {
		t.Errorf("when that is not known: %v", err)
	}
}

func TestReachableRefusesLoopbackElsewhere(t *testing.T) {
	for _, c := range []struct {
		advertised string
		join       []string
		want       string
	}{
		{"127.0.0.1:7460", []string{"127.0.0.1:7461"}, ""},
		{"10.0.0.1:7460", []string{"10.0.0.2:7460"}, ""},
		{"10.0.0.1:7460", []string{"127.0.0.1:7460"}, ""}, // the other node is on this host
		{"127.0.0.1:7460", []string{"10.0.0.2:7460"}, "you advertise 127.0.0.1 but join 10.0.0.2: peers cannot reach you"},
		{"[::1]:7460", []string{"[fd00::2]:7460"}, "you advertise ::1 but join fd00::2: peers cannot reach you"},
		{"localhost:7460", []string{"node-2:7460"}, "you advertise localhost but join node-2: peers cannot reach you"},
		{"127.0.0.1:7460", []string{"127.0.0.1:7461", "10.0.0.2:7460"}, "you advertise 127.0.0.1 but join 10.0.0.2: peers cannot reach you"},
		{"10.0.0.1:7460", []string{"10.0.0.2"}, `address "10.0.0.2": want HOST:PORT`},
	} {
		err := reachable(c.advertised, c.join)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("reachable(%q, %q) = %v, want %q", c.advertised, c.join, err, c.want)
		}
	}
}
