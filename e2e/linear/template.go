package linear

import (
	"fmt"
	"time"

	"github.com/anishathalye/porcupine"
)

// The operations on one template.
const (
	Put    = "put"
	Get    = "get"
	Delete = "delete"
)

// TemplateOp is one call of one client: what it asked and what it was told.
type TemplateOp struct {
	Client    int
	Template  string
	Kind      string
	Content   string // of a put, or what a get saw
	Expected  uint32 // of a put: the version that it follows; of a delete: the newest, 0 = whichever
	Call, End time.Duration

	Answer  Answer // Conflict: the newest version is another one
	Version uint32
}

// String says what was asked and told.
func (o TemplateOp) String() string {
	return fmt.Sprintf("client %d: %s %s %q after %d = %s (version %d)", o.Client, o.Kind, o.Template, o.Content, o.Expected, o.Answer, o.Version)
}

// templateState is one template, as the specification has it.
type templateState struct {
	version uint32 // 0: it never was
	content string // "" when it was deleted
}

// templateModel is the specification: a version follows the one that was expected, with a
// number that was never given before; what stands is answered to whoever puts it again.
var templateModel = porcupine.Model{
	Partition:         partition(func(input any) string { return input.(TemplateOp).Template }),
	Init:              func() any { return templateState{} },
	Step:              func(state, input, _ any) (bool, any) { return state.(templateState).step(input.(TemplateOp)) },
	DescribeOperation: func(input, _ any) string { return input.(TemplateOp).String() },
}

// step says whether the answer is right where the state is s, and what it is then.
func (s templateState) step(o TemplateOp) (bool, templateState) {
	switch o.Kind {
	case Put:
		stands := s.content == o.Content && (o.Expected == s.version || o.Expected+1 == s.version)
		next := templateState{s.version + 1, o.Content}
		if stands {
			next = s
		}
		moved := !stands && o.Expected != s.version
		switch {
		case o.Answer == Unknown && moved:
			return true, s
		case o.Answer == Unknown:
			return true, next
		case o.Answer == Conflict || moved:
			return o.Answer == Conflict && moved, s
		}
		return o.Answer == OK && o.Version == next.version, next
	case Delete:
		switch {
		case s.version == 0:
			return o.Answer == Absent || o.Answer == Unknown, s
		case o.Expected != 0 && o.Expected != s.version:
			return o.Answer == Conflict || o.Answer == Unknown, s
		default:
			return o.Answer == OK || o.Answer == Unknown, templateState{version: s.version}
		}
	default:
		if s.content == "" {
			return o.Answer == Absent && o.Version == s.version, s
		}
		return o.Answer == OK && o.Version == s.version && o.Content == s.content, s
	}
}

// JudgeTemplates judges operations on templates. What is illegal is drawn on the page, a
// path; empty is none.
func JudgeTemplates(ops []TemplateOp, page string) (porcupine.CheckResult, error) {
	return check(templateModel, ops, func(o TemplateOp) span { return span{o.Client, o.Call, o.End, o.Answer == Unknown} }, page)
}
