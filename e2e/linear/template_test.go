package linear

import (
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// A judge that lets everything pass judges nothing.
func TestTemplateJudge(t *testing.T) {
	at := func(call, end int, o TemplateOp) TemplateOp {
		o.Client, o.Template, o.Call, o.End = call, "t", time.Duration(call), time.Duration(end)
		return o
	}
	put := func(content string, expected, version uint32) TemplateOp {
		return TemplateOp{Kind: Put, Content: content, Expected: expected, Version: version}
	}
	moved := func(content string, expected uint32) TemplateOp {
		return TemplateOp{Kind: Put, Content: content, Expected: expected, Answer: Conflict}
	}
	lost := func(content string, expected uint32) TemplateOp {
		return TemplateOp{Kind: Put, Content: content, Expected: expected, Answer: Unknown}
	}
	get := func(content string, version uint32) TemplateOp {
		return TemplateOp{Kind: Get, Content: content, Version: version}
	}
	none, gone := TemplateOp{Kind: Get, Answer: Absent}, TemplateOp{Kind: Delete}
	left := func(version uint32) TemplateOp { return TemplateOp{Kind: Get, Answer: Absent, Version: version} }
	drop := func(expected uint32, answer Answer) TemplateOp {
		return TemplateOp{Kind: Delete, Expected: expected, Answer: answer}
	}
	for _, c := range []struct {
		name  string
		ops   []TemplateOp
		legal bool
	}{
		{"a life", []TemplateOp{at(1, 2, none), at(3, 4, put("x", 0, 1)), at(5, 6, put("y", 1, 2)), at(7, 8, moved("z", 1)), at(9, 10, get("y", 2)), at(11, 12, gone), at(13, 14, left(2))}, true},
		{"its own first try", []TemplateOp{at(1, 2, put("x", 0, 1)), at(3, 4, put("x", 0, 1)), at(5, 6, put("x", 1, 1))}, true},
		{"an unknown one that took effect", []TemplateOp{at(1, 2, lost("x", 0)), at(3, 4, get("x", 1))}, true},
		{"an unknown one that did not", []TemplateOp{at(1, 2, lost("x", 0)), at(3, 4, none), at(5, 6, put("y", 0, 1))}, true},
		{"numbers go on behind a deletion", []TemplateOp{at(1, 2, put("x", 0, 1)), at(3, 4, gone), at(5, 6, put("y", 1, 2)), at(7, 8, get("y", 2))}, true},
		{"a deletion of the newest", []TemplateOp{at(1, 2, put("x", 0, 1)), at(3, 4, drop(1, OK)), at(5, 6, drop(1, OK)), at(7, 8, put("y", 1, 2)), at(9, 10, drop(1, Conflict))}, true},
		{"a deletion of what was deleted and made anew", []TemplateOp{at(1, 2, put("x", 0, 1)), at(3, 4, gone), at(5, 6, put("y", 1, 2)), at(7, 8, drop(1, OK))}, false},
		{"a first put behind a deletion", []TemplateOp{at(1, 2, put("x", 0, 1)), at(3, 4, gone), at(5, 6, put("x", 0, 2))}, false},
		{"a deletion that leaves no number", []TemplateOp{at(1, 2, put("x", 0, 1)), at(3, 4, gone), at(5, 6, none)}, false},
		{"a number is given again", []TemplateOp{at(1, 2, put("x", 0, 1)), at(3, 4, gone), at(5, 6, put("y", 1, 1))}, false},
		{"two follow the same version", []TemplateOp{at(1, 2, put("x", 0, 1)), at(3, 4, put("y", 1, 2)), at(5, 6, put("z", 1, 3))}, false},
		{"a stale read", []TemplateOp{at(1, 2, put("x", 0, 1)), at(3, 4, put("y", 1, 2)), at(5, 6, get("x", 1))}, false},
		{"back after the deletion", []TemplateOp{at(1, 2, put("x", 0, 1)), at(3, 4, gone), at(5, 6, get("x", 1))}, false},
		{"another content under the number", []TemplateOp{at(1, 2, put("x", 0, 1)), at(3, 4, get("y", 1))}, false},
		{"refused though it follows", []TemplateOp{at(1, 2, put("x", 0, 1)), at(3, 4, moved("y", 1))}, false},
		{"an unknown one that took effect and was undone", []TemplateOp{at(1, 2, lost("x", 0)), at(3, 4, get("x", 1)), at(5, 6, none)}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			result, err := JudgeTemplates(c.ops, "")
			if legal := result == porcupine.Ok; err != nil || legal != c.legal {
				t.Errorf("the judge says %v (%v), want legal = %v", result, err, c.legal)
			}
		})
	}
}
