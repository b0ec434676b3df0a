package main

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// The files of an agent hold the bytes that are kept and nothing else, whatever they are;
// what is missing stands beside them.
func TestFilesHoldTheExactOutput(t *testing.T) {
	const stdout = agentplanev1.OutputStream_OUTPUT_STREAM_STDOUT
	binary := string([]byte{0, 0xff, '\r', '\n', 0x1b, '[', 0xc3})
	sum := func(s string) []byte {
		of := sha256.Sum256([]byte(s))
		return of[:]
	}
	totals := func(bytes uint64, of string) *agentplanev1.OutputTotals {
		return &agentplanev1.OutputTotals{Stdout: &agentplanev1.OutputTotal{Bytes: bytes, Sha256: sum(of)}, Stderr: &agentplanev1.OutputTotal{Sha256: sum("")}}
	}
	data := func(offset uint64, text string) *agentplanev1.OutputChunk {
		return &agentplanev1.OutputChunk{Stream: stdout, Offset: offset, Data: []byte(text)}
	}
	result := &agentplanev1.Output{Head: []byte("head"), Tail: []byte("tail"), TotalBytes: 100}
	for _, c := range []struct {
		name  string
		items []*agentplanev1.FollowItem
		want  string
		gaps  []string
		later int
	}{
		{
			"binary", []*agentplanev1.FollowItem{
				{Attempt: 1, Chunks: []*agentplanev1.OutputChunk{data(0, binary[:3]), data(3, binary[3:])}},
				{Attempt: 1, End: &agentplanev1.FollowEnd{Totals: totals(7, binary)}},
			}, binary, nil, 0,
		},
		{
			"a gap", []*agentplanev1.FollowItem{
				{Attempt: 1, Chunks: []*agentplanev1.OutputChunk{data(0, "ab"), {Stream: stdout, Offset: 2, GapBytes: 5, GapReason: "quota"}, data(7, "cd")}},
				{Attempt: 1, End: &agentplanev1.FollowEnd{Totals: totals(9, "abcd")}},
			}, "abcd", []string{"5 bytes of stdout from 2 on are not kept: quota"}, 0,
		},
		{
			"tried again", []*agentplanev1.FollowItem{
				{Attempt: 1, Chunks: []*agentplanev1.OutputChunk{data(0, "first")}, End: &agentplanev1.FollowEnd{Incomplete: "not_received"}},
				{Attempt: 2, Chunks: []*agentplanev1.OutputChunk{data(0, "second")}, End: &agentplanev1.FollowEnd{Totals: totals(6, "second")}},
			}, "second", nil, 0,
		},
		{
			"others than were recorded", []*agentplanev1.FollowItem{
				{Attempt: 1, Chunks: []*agentplanev1.OutputChunk{data(0, "ab")}, End: &agentplanev1.FollowEnd{Totals: totals(2, "cd")}},
			}, "ab", []string{"what came of stdout is not what was recorded"}, 0,
		},
		{
			"the rest is on the host: head and tail stand in its place", []*agentplanev1.FollowItem{
				{Attempt: 1, Chunks: []*agentplanev1.OutputChunk{data(0, "header")}, End: &agentplanev1.FollowEnd{Incomplete: "not_received"}},
			}, "headertail", []string{"has not come from the host", "90 bytes of stdout from 6 on are not here"}, 1,
		},
		{"nothing came", nil, "headtail", []string{"92 bytes of stdout from 4 on are not here"}, 0},
		{"it runs", []*agentplanev1.FollowItem{{Attempt: 1, End: &agentplanev1.FollowEnd{Incomplete: "not_ended"}}}, "headtail", []string{"it runs"}, 0},
		{"it never ran", []*agentplanev1.FollowItem{{Attempt: 1, End: &agentplanev1.FollowEnd{Incomplete: "never_ran"}}}, "", nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "web-1"), 0o700); err != nil {
				t.Fatal(err)
			}
			root, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			o, err := newResultOutput(root, []string{"web-1"}, []*agentplanev1.Invocation{{Id: "i", Attempt: 1, Stdout: result}})
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range c.items {
				i.InvocationId = "i"
				if err := o.take(i); err != nil {
					t.Fatal(err)
				}
			}
			if len(c.items) == 0 {
				if err := o.fill(o.kept[0], "why"); err != nil {
					t.Fatal(err)
				}
			}
			got, err := os.ReadFile(filepath.Join(dir, "web-1", "stdout"))
			if err != nil || string(got) != c.want {
				t.Errorf("stdout is %q (%v), want %q", got, err, c.want)
			}
			notes := strings.Join(o.kept[0].notes, "\n")
			for _, want := range c.gaps {
				if !strings.Contains(notes, want) {
					t.Errorf("noted is %q, want %q", notes, want)
				}
			}
			if len(c.gaps) == 0 && notes != "" {
				t.Errorf("noted is %q, want nothing", notes)
			}
			if _, later := o.incomplete(); later != c.later {
				t.Errorf("of %d more may be had later, want %d", later, c.later)
			}
		})
	}
}
