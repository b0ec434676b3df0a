package fsm

import (
	"testing"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func TestTurns(t *testing.T) {
	row := func(id string, exclusive bool, locks ...string) (*raftlogv1.Invocation, *raftlogv1.Command) {
		return &raftlogv1.Invocation{CommandId: id, Exclusive: exclusive}, &raftlogv1.Command{Id: id, Exclusive: exclusive, Locks: locks}
	}
	type asked struct {
		id        string
		exclusive bool
		locks     []string
		want      Wait
	}
	for name, c := range map[string]struct {
		runs []asked
		asks []asked
	}{
		"nothing keeps anybody from an idle host": {nil, []asked{{id: "a", exclusive: true}}},
		"a lock is held": {[]asked{{id: "r", locks: []string{"x"}}}, []asked{
			{id: "a", locks: []string{"x", "y"}, want: Wait{Reason: ReasonLocked, Lock: "x", CommandID: "r"}},
			{id: "b", locks: []string{"z"}},
			{id: "c"},
		}},
		"who waits bars its other locks to those behind it": {[]asked{{id: "r", locks: []string{"x"}}}, []asked{
			{id: "a", locks: []string{"x", "y"}, want: Wait{Reason: ReasonLocked, Lock: "x", CommandID: "r"}},
			{id: "b", locks: []string{"y"}, want: Wait{Reason: ReasonLocked, Lock: "y", CommandID: "a", Before: true}},
		}},
		"an exclusive one bars everything behind it": {[]asked{{id: "r"}}, []asked{
			{id: "a"},
			{id: "b", exclusive: true, want: Wait{Reason: ReasonExclusive, CommandID: "r"}},
			{id: "c", want: Wait{Reason: ReasonExclusive, CommandID: "b", Before: true}},
			{id: "d", exclusive: true, want: Wait{Reason: ReasonExclusive, CommandID: "b", Before: true}},
		}},
		"nothing runs beside an exclusive one": {[]asked{{id: "r", exclusive: true}}, []asked{
			{id: "a", want: Wait{Reason: ReasonExclusive, CommandID: "r"}},
			{id: "b", exclusive: true, want: Wait{Reason: ReasonExclusive, CommandID: "r"}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var turn Turn
			for _, r := range c.runs {
				turn.Take(row(r.id, r.exclusive, r.locks...))
			}
			for _, a := range c.asks {
				if got := turn.Ask(row(a.id, a.exclusive, a.locks...)); got != a.want {
					t.Errorf("Ask(%s) = %+v, want %+v", a.id, got, a.want)
				}
			}
		})
	}
}

func TestTurnOfPlainCommandsAllocatesNothing(t *testing.T) {
	i, c := &raftlogv1.Invocation{}, &raftlogv1.Command{Id: "c"}
	if n := testing.AllocsPerRun(100, func() {
		var turn Turn
		turn.Take(i, c)
		turn.Ask(i, c)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
