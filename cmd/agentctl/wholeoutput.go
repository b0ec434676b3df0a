package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// outputFlags say which part of the output of one agent is printed.
type outputFlags struct {
	stderr bool
	offset uint64
	ranged bool // --offset was given
}

func (f *outputFlags) add(c *cobra.Command) {
	c.Flags().BoolVar(&f.stderr, "stderr", false, "print stderr alone, to stdout")
	c.Flags().Uint64Var(&f.offset, "offset", 0, "of one stream alone, begin at byte `N`")
}

// wholeOutput prints the exact bytes that a program has printed: stdout to stdout and
// stderr to stderr, or one stream of them to stdout. What arrives is compared with the
// hash that the cluster has recorded.
type wholeOutput struct {
	app   *app
	flags *outputFlags
	sums  [2]hash.Hash
	at    [2]uint64
	end   *agentplanev1.FollowEnd
	term  [2]*sink
}

func newWholeOutput(a *app, f *outputFlags) *wholeOutput {
	w := &wholeOutput{app: a, flags: f, sums: [2]hash.Hash{sha256.New(), sha256.New()}}
	for i, to := range []io.Writer{a.stdout, a.stderr} {
		switch {
		case i == 1 && f.stderr:
			to = a.stdout
		case i == 0 && f.stderr, i == 1 && f.ranged:
			to = io.Discard
		}
		w.term[i] = &sink{to: to, plain: isTerminal(to)}
	}
	return w
}

func (a *app) printWhole(ctx context.Context, s *session, id, agent string, f *outputFlags) error {
	w := newWholeOutput(a, f)
	err := s.Follow(ctx, &agentplanev1.FollowRequest{CommandId: id, Agent: agent, NoWait: true}, w.take)
	for _, t := range w.term {
		t.flush()
	}
	if err != nil {
		return err
	}
	return w.verdict(id, agent)
}

func (w *wholeOutput) take(i *agentplanev1.FollowItem) error {
	for _, c := range i.Chunks {
		n := int(c.Stream) - 1
		if n < 0 || n > 1 {
			continue
		}
		if c.GapBytes > 0 {
			w.term[n].flush()
			w.app.talk("%s", gapWords(c))
		}
		_, _ = w.sums[n].Write(c.Data)
		data := c.Data
		if skip := w.flags.offset; w.at[n] < skip {
			data = data[min(uint64(len(data)), skip-w.at[n]):]
		}
		w.at[n] = c.Offset + c.GapBytes + uint64(len(c.Data))
		_, _ = w.term[n].Write(data)
		if err := w.term[n].err; err != nil {
			return fmt.Errorf("print: %w", err)
		}
	}
	if i.End != nil {
		w.end = i.End
	}
	return nil
}

// verdict says whether what was printed is what the cluster has recorded, and all of it.
func (w *wholeOutput) verdict(id, agent string) error {
	switch w.end.GetIncomplete() {
	case "":
	case "never_ran":
		w.app.talk("the program did not run: %s", stateName(w.end.GetState()))
		return nil
	case "not_ended":
		w.app.talk("it runs, and may print more; follow it: agentctl commands attach %s %s", id, agent)
		return nil
	default:
		return &failure{
			code: exitUnavailable, err: fmt.Errorf("the output of command %s on %s may not be all: %s", id, agent, incompleteWords(w.end.GetIncomplete())),
			hint: fmt.Sprintf("try again when the host and the nodes are there: agentctl commands output %s %s", id, agent),
		}
	}
	for i, t := range []*agentplanev1.OutputTotal{w.end.GetTotals().GetStdout(), w.end.GetTotals().GetStderr()} {
		if err := compareTotal(streamNames[i], w.at[i], w.sums[i], t); err != nil {
			return err
		}
	}
	return nil
}
