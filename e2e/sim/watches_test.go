package sim

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// message is what a watch of a command shows.
type message struct {
	index    uint64
	snapshot bool
	rows     []*agentplanev1.Invocation
}

func TestAWatchIsJudgedByWhatItHasShown(t *testing.T) {
	claimed := &agentplanev1.Invocation{Id: "c.1", State: agentplanev1.AttemptState_ATTEMPT_STATE_CLAIMED}
	running := &agentplanev1.Invocation{Id: "c.1", State: agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING}
	other := &agentplanev1.Invocation{Id: "c.2", State: agentplanev1.AttemptState_ATTEMPT_STATE_CLAIMED}
	for name, c := range map[string]struct {
		messages []message
		want     string
	}{
		"good":                      {[]message{{5, true, []*agentplanev1.Invocation{claimed}}, {6, false, []*agentplanev1.Invocation{running}}}, ""},
		"in several parts":          {[]message{{5, true, []*agentplanev1.Invocation{claimed}}, {5, false, []*agentplanev1.Invocation{other}}}, ""},
		"it moves by time alone":    {[]message{{5, true, []*agentplanev1.Invocation{claimed}}, {5, false, []*agentplanev1.Invocation{running}}}, ""},
		"another copy":              {[]message{{5, true, []*agentplanev1.Invocation{claimed}}, {5, true, []*agentplanev1.Invocation{claimed}}}, ""},
		"again after another entry": {[]message{{5, true, []*agentplanev1.Invocation{claimed}}, {6, false, []*agentplanev1.Invocation{claimed}}}, ""},
		"duplicate":                 {[]message{{5, true, []*agentplanev1.Invocation{claimed}}, {6, false, []*agentplanev1.Invocation{running}}, {6, false, []*agentplanev1.Invocation{running}}}, "shows c.1 twice at index 6"},
		"twice what the copy holds": {[]message{{5, true, []*agentplanev1.Invocation{claimed, other}}, {5, false, []*agentplanev1.Invocation{other}}}, "shows c.2 twice at index 5"},
		"time travel":               {[]message{{5, true, []*agentplanev1.Invocation{claimed}}, {4, false, []*agentplanev1.Invocation{running}}}, "from index 5 back to 4"},
		"an older copy":             {[]message{{5, true, []*agentplanev1.Invocation{claimed}}, {4, true, []*agentplanev1.Invocation{claimed}}}, "from index 5 back to 4"},
		"no copy":                   {[]message{{5, false, []*agentplanev1.Invocation{claimed}}}, "begins with a change"},
	} {
		t.Run(name, func(t *testing.T) {
			s := watched{what: "command c"}
			var wrong []string
			for _, m := range c.messages {
				rows := make(map[string]proto.Message)
				for _, r := range m.rows {
					rows[r.GetId()] = r
				}
				wrong = append(wrong, s.take(m.index, m.snapshot, rows)...)
			}
			wantWrong(t, wrong, c.want)
		})
	}
}

func wantWrong(t *testing.T, wrong []string, want string) {
	t.Helper()
	switch all := strings.Join(wrong, "\n"); {
	case want == "" && len(wrong) > 0:
		t.Errorf("found guilty: %s", all)
	case want != "" && !strings.Contains(all, want):
		t.Errorf("found %q, want %q", all, want)
	}
}

// What a watch has come to at an index is compared with the state there: a change that was
// left out, or came late, shows.
func TestAWatchIsComparedWithTheLog(t *testing.T) {
	v := fsm.New(fsm.Options{}).View()
	nobody := agentPicture{labels: "map[]"}
	for name, c := range map[string]struct {
		p    picture
		want string
	}{
		"good":                {picture{command: "c", attempts: map[string]attemptPicture{}}, ""},
		"another command":     {picture{command: "c", row: commandPicture{state: 20}, attempts: map[string]attemptPicture{}}, "shows it as {20"},
		"a count that lags":   {picture{command: "c", row: commandPicture{queued: 1}, attempts: map[string]attemptPicture{}}, "where the log makes {0"},
		"one attempt more":    {picture{command: "c", attempts: map[string]attemptPicture{"c.1": {}}}, "shows map[c.1:"},
		"good agents":         {picture{agents: map[string]agentPicture{"a": nobody}}, ""},
		"an agent's session":  {picture{agents: map[string]agentPicture{"a": {epoch: 1, labels: "map[]"}}}, "shows agent a with {1"},
		"a label that is old": {picture{agents: map[string]agentPicture{"a": {labels: "map[x:y]"}}}, "map[x:y]"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWatches()
			w.add(c.p, v.Index(), nil)
			wantWrong(t, w.judge(v), c.want)
		})
	}
	w := newWatches()
	w.add(picture{agents: map[string]agentPicture{"a": {epoch: 9}}}, 3, nil)
	w.add(picture{agents: map[string]agentPicture{"a": {epoch: 8}}}, 4, nil)
	wantWrong(t, w.wrong, "I5: a watch showed agent a with session 9 and then with 8")
}

func TestASilentWatchHasNotShownTheEnd(t *testing.T) {
	const done, succeeded = int32(agentplanev1.CommandState_COMMAND_STATE_DONE), int32(agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED)
	for name, c := range map[string]struct {
		p    picture
		want bool
	}{
		"silent":           {picture{}, false},
		"whole":            {picture{row: commandPicture{state: done, succeeded: 1}, attempts: map[string]attemptPicture{"c.1": {state: succeeded}}}, true},
		"an attempt lacks": {picture{row: commandPicture{state: done, succeeded: 2}, attempts: map[string]attemptPicture{"c.1": {state: succeeded}}}, false},
		"an attempt lags": {picture{row: commandPicture{state: done, succeeded: 1}, attempts: map[string]attemptPicture{
			"c.1": {state: int32(agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING)},
		}}, false},
		"the command lags": {picture{row: commandPicture{succeeded: 1}, attempts: map[string]attemptPicture{"c.1": {state: succeeded}}}, false},
	} {
		if got := c.p.ended(); got != c.want {
			t.Errorf("%s: ended is %v", name, got)
		}
	}
}
