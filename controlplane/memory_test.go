package controlplane

import (
	"errors"
	"testing"

	"github.com/agentplane/agentplane/controlplane/peer"
	"github.com/agentplane/agentplane/controlplane/pki"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

func TestMemoryRefusesADiskThatWasPutBack(t *testing.T) {
	says := func(start uint64, id string, term, last uint64, earlier ...string) *agentplanev1.Preface {
		p := &agentplanev1.Preface{StartCounter: start, StartId: []byte(id), Term: term, LastIndex: last}
		for _, id := range earlier {
			p.EarlierStartIds = append(p.EarlierStartIds, []byte(id))
		}
		return p
	}
	for _, c := range []struct {
		name    string
		seen    []*agentplanev1.Preface
		applied uint64 // answered after what was seen
		comes   *agentplanev1.Preface
		refused bool
	}{
		{"a stranger", nil, 0, says(1, "a", 1, 1), false},
		{"the same process again, whose log was cut", []*agentplanev1.Preface{says(5, "a", 7, 100)}, 90, says(5, "a", 7, 95), false},
		{"the next start", []*agentplanev1.Preface{says(5, "a", 7, 100)}, 90, says(6, "b", 7, 90), false},
		{"an earlier start", []*agentplanev1.Preface{says(5, "a", 7, 100)}, 90, says(4, "b", 7, 100), true},
		{"put back by exactly one start", []*agentplanev1.Preface{says(5, "a", 7, 100)}, 90, says(5, "b", 7, 100), true},
		{"the next start with an older term", []*agentplanev1.Preface{says(5, "a", 7, 100)}, 90, says(6, "b", 6, 100), true},
		{"the next start without an entry that it had applied", []*agentplanev1.Preface{says(5, "a", 7, 100)}, 90, says(6, "b", 7, 89), true},
		{"put back by one start, and started again", []*agentplanev1.Preface{says(5, "a", 7, 100)}, 90, says(6, "c", 7, 100, "b", "z"), true},
		{"put back, and started often", []*agentplanev1.Preface{says(5, "a", 7, 100)}, 90, says(8, "e", 7, 100, "d", "c", "b", "z"), true},
		{"the next start but one", []*agentplanev1.Preface{says(5, "a", 7, 100)}, 90, says(7, "c", 7, 100, "b", "a", "z"), false},
		{"so many starts later that nobody knows", []*agentplanev1.Preface{says(5, "a", 7, 100)}, 90, says(9, "f", 7, 100, "e", "d"), false},
		{"the next start, before its raft is open", []*agentplanev1.Preface{says(5, "a", 7, 100)}, 90, says(6, "b", 0, 0), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var m memory
			m.begin(nil)
			for _, p := range c.seen {
				if err := m.judge("n", p); err != nil {
					t.Fatal(err)
				}
			}
			if c.applied > 0 {
				m.saw("n", &agentplanev1.ReadTermResponse{StartCounter: 5, Term: 7, AppliedIndex: c.applied})
			}
			check := func(how string, m *memory) {
				err := m.judge("n", c.comes)
				if refused := errors.Is(err, peer.ErrPutBack); refused != c.refused {
					t.Errorf("%s: judge = %v, want refused %v", how, err, c.refused)
				}
			}
			check("in one start", &m)
			var later memory
			later.begin(map[string]pki.PeerMemory{"n": m.all()["n"]})
			check("after a start of the judge", &later)
		})
	}
}

func TestMemoryIsWrittenWhenSomethingIsNew(t *testing.T) {
	var m memory
	m.begin(map[string]pki.PeerMemory{"n": {Starts: 5, Term: 7, Index: 90}})
	m.saw("n", &agentplanev1.ReadTermResponse{StartCounter: 5, Term: 7, AppliedIndex: 90})
	if m.takeDirty() {
		t.Error("nothing was new and is to be written")
	}
	m.saw("n", &agentplanev1.ReadTermResponse{StartCounter: 5, Term: 7, AppliedIndex: 91})
	if !m.takeDirty() || m.takeDirty() {
		t.Error("what is new must be written once")
	}
}
