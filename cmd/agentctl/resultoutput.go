package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"strings"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// gapsFile stands beside the output of an agent of which something is not there, and
// says what.
const gapsFile = "gaps"

var streamNames = [2]string{"stdout", "stderr"}

// resultOutput writes what nodes keep of the output of a command's programs into the
// directories of its results: the bytes as they were printed, and nothing in the place of
// those that are not kept, which a file beside them counts.
type resultOutput struct {
	root *os.Root
	kept []*agentOutput
	of   map[string]*agentOutput // by invocation
}

// agentOutput is how far the output of one invocation has come.
type agentOutput struct {
	dir     string
	row     *agentplanev1.Invocation
	attempt uint32
	at      [2]uint64 // how far the streams have come, gaps included
	sums    [2]hash.Hash
	notes   []string // what is not there
	ended   bool
	later   bool // more of it may be had later
}

// newResultOutput makes the files, which are empty, in directories that are there.
func newResultOutput(root *os.Root, dirs []string, all []*agentplanev1.Invocation) (*resultOutput, error) {
	o := &resultOutput{root: root, of: make(map[string]*agentOutput, len(all))}
	for n, i := range all {
		k := &agentOutput{dir: dirs[n], row: i}
		if err := o.begin(k, i.Attempt); err != nil {
			return nil, err
		}
		o.kept, o.of[i.Id] = append(o.kept, k), k
	}
	return o, nil
}

// begin empties the files for an attempt.
func (o *resultOutput) begin(k *agentOutput, attempt uint32) error {
	*k = agentOutput{dir: k.dir, row: k.row, attempt: attempt, sums: [2]hash.Hash{sha256.New(), sha256.New()}}
	for _, name := range streamNames {
		if err := o.root.WriteFile(filepath.Join(k.dir, name), nil, 0o666); err != nil {
			return err
		}
	}
	return nil
}

// fetch writes all that is kept. What cannot be had now is noted, and what the results
// hold of it stands in its place; only files that cannot be written, and the end of ctx,
// are errors.
func (o *resultOutput) fetch(ctx context.Context, s *session, id string) error {
	var broken error // while it was written
	err := s.Follow(ctx, &agentplanev1.FollowRequest{CommandId: id, NoWait: true}, func(i *agentplanev1.FollowItem) error {
		broken = o.take(i)
		return broken
	})
	if broken != nil || ctx.Err() != nil {
		return cmp.Or(broken, ctx.Err())
	}
	for _, k := range o.kept {
		if !k.ended {
			if err := o.fill(k, "it could not be read: "+oneLine(cmp.Or(err, errors.New("no node sent it")).Error())); err != nil {
				return err
			}
			k.later = true
		}
		if len(k.notes) > 0 {
			if err := o.root.WriteFile(filepath.Join(k.dir, gapsFile), []byte(strings.Join(k.notes, "\n")+"\n"), 0o666); err != nil {
				return err
			}
		}
	}
	return nil
}

// incomplete counts the agents whose output is not all there, and those of them of which
// more may be had later.
func (o *resultOutput) incomplete() (some, later int) {
	for _, k := range o.kept {
		if len(k.notes) > 0 {
			some++
		}
		if k.later {
			later++
		}
	}
	return some, later
}

func (o *resultOutput) take(i *agentplanev1.FollowItem) error {
	k := o.of[i.InvocationId]
	if k == nil {
		return nil
	}
	if i.Attempt != k.attempt { // it was tried again meanwhile
		if err := o.begin(k, i.Attempt); err != nil {
			return err
		}
	}
	for _, c := range i.Chunks {
		if n := int(c.Stream) - 1; n == 0 || n == 1 {
			if err := o.add(k, n, c); err != nil {
				return err
			}
		}
	}
	if i.End == nil {
		return nil
	}
	return o.end(k, i.End)
}

// add writes the next part of a stream.
func (o *resultOutput) add(k *agentOutput, n int, c *agentplanev1.OutputChunk) error {
	if c.GapBytes > 0 {
		k.notes = append(k.notes, gapWords(c))
	}
	k.at[n] = c.Offset + c.GapBytes + uint64(len(c.Data))
	if len(c.Data) == 0 {
		return nil
	}
	_, _ = k.sums[n].Write(c.Data)
	f, err := o.root.OpenFile(filepath.Join(k.dir, streamNames[n]), os.O_WRONLY|os.O_APPEND, 0o666)
	if err != nil {
		return err
	}
	_, err = f.Write(c.Data)
	return errors.Join(err, f.Close())
}

// end compares what came with what is recorded, or notes why it may not be all.
func (o *resultOutput) end(k *agentOutput, e *agentplanev1.FollowEnd) error {
	k.ended = true
	switch e.Incomplete {
	case "":
		for n, t := range []*agentplanev1.OutputTotal{e.GetTotals().GetStdout(), e.GetTotals().GetStderr()} {
			if err := compareTotal(streamNames[n], k.at[n], k.sums[n], t); err != nil {
				k.notes = append(k.notes, err.Error())
			}
		}
		return nil
	case "never_ran":
		return nil
	}
	k.later = e.Incomplete != "not_ended"
	return o.fill(k, incompleteWords(e.Incomplete))
}

// fill adds what the result holds of an output that is not all there: head and tail.
func (o *resultOutput) fill(k *agentOutput, why string) error {
	k.ended = true
	k.notes = append(k.notes, why)
	if k.row.Attempt != k.attempt {
		return nil // it is that of another attempt
	}
	for n, out := range []*agentplanev1.Output{k.row.Stdout, k.row.Stderr} {
		head, tail := out.GetHead(), out.GetTail()
		begin := max(out.GetTotalBytes(), uint64(len(head)+len(tail))) - uint64(len(tail)) // of the tail
		for _, part := range []struct {
			offset uint64
			data   []byte
		}{{0, head}, {begin, tail}} {
			have := k.at[n]
			end := part.offset + uint64(len(part.data))
			if end <= have {
				continue
			}
			if part.offset > have {
				k.notes = append(k.notes, fmt.Sprintf("%d bytes of %s from %d on are not here", part.offset-have, streamNames[n], have))
				have = part.offset
			}
			c := &agentplanev1.OutputChunk{Stream: agentplanev1.OutputStream(n + 1), Offset: have, Data: part.data[have-part.offset:]}
			if err := o.add(k, n, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// compareTotal says whether a stream that came is the one that was recorded.
func compareTotal(name string, came uint64, sum hash.Hash, t *agentplanev1.OutputTotal) error {
	switch {
	case came != t.GetBytes():
		return fmt.Errorf("%d bytes of %s came, and %d were recorded", came, name, t.GetBytes())
	case !bytes.Equal(sum.Sum(nil), t.GetSha256()):
		return &failure{
			code: exitError, err: fmt.Errorf("what came of %s is not what was recorded: its SHA-256 is %x, recorded is %x", name, sum.Sum(nil), t.GetSha256()),
			hint: "a disk of a node may be damaged: try again through another node with --addr HOST:PORT",
		}
	}
	return nil
}
