package membership

import "testing"

func TestDecide(t *testing.T) {
	voter := func(id string, boot uint64) Server { return Server{ID: id, Voter: true, Answers: true, Boot: boot} }
	candidate := func(id string) Server {
		return Server{ID: id, Candidate: true, Answers: true, Registered: 10, Applied: 100, Boot: 10}
	}
	gone := Server{ID: "x", Voter: true, Removed: true}
	if d := Decide([]Server{voter("a", 20), gone, candidate("b"), candidate("c")}, 100, 5); d.Remove != "x" || d.Promote != "" {
		t.Errorf("with a removed node in the configuration: %+v, want its removal first", d)
	}
	for _, c := range []struct {
		name    string
		servers []Server
		most    int
		promote string
		waits   map[string]string
	}{
		{
			"a lone candidate waits for one more",
			[]Server{voter("a", 20), candidate("b")},
			5, "",
			map[string]string{"b": "one more node: 2 voters would tolerate no more deaths than 1"},
		},
		{
			"two candidates are promoted one by one",
			[]Server{voter("a", 20), candidate("b"), candidate("c")},
			5, "b",
			map[string]string{"c": "another candidate is being promoted first"},
		},
		{"an even number is completed", []Server{voter("a", 20), voter("b", 20), candidate("c")}, 5, "c", nil},
		{"a removed voter is replaced", []Server{voter("a", 20), voter("b", 20), voter("c", 20), voter("d", 20), candidate("e")}, 5, "e", nil},
		{
			"no more than wanted",
			[]Server{voter("a", 20), voter("b", 20), voter("c", 20), candidate("d"), candidate("e")},
			3, "",
			map[string]string{"d": "there are 3 voters and at most 3 are wanted", "e": "there are 3 voters and at most 3 are wanted"},
		},
		{
			"a voter that does not know the newcomer holds it up",
			[]Server{voter("a", 20), voter("b", 9), candidate("c")},
			5, "",
			map[string]string{"c": "voter b has not yet stored its key: start that node, or remove it"},
		},
		{
			"who does not answer waits",
			[]Server{voter("a", 20), voter("b", 20), {ID: "c", Candidate: true}},
			5, "",
			map[string]string{"c": "the leader gets no answer from it"},
		},
		{
			"who lags waits",
			[]Server{voter("a", 20), voter("b", 20), {ID: "c", Candidate: true, Answers: true, Applied: 3}},
			5, "",
			map[string]string{"c": "it is catching up (at entry 3 of 100)"},
		},
		{"a node that is no candidate never votes", []Server{voter("a", 20), voter("b", 20), {ID: "c", Answers: true, Applied: 100}}, 5, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := Decide(c.servers, 100, c.most)
			if d.Promote != c.promote {
				t.Errorf("promotes %q, want %q", d.Promote, c.promote)
			}
			if len(d.Waits) != len(c.waits) {
				t.Errorf("waits %v, want %v", d.Waits, c.waits)
			}
			for id, why := range c.waits {
				if d.Waits[id].Why != why {
					t.Errorf("%s waits for %q, want %q", id, d.Waits[id].Why, why)
				}
			}
		})
	}
}
