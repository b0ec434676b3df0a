package agent

import (
	"context"

	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/agent/journal"
	"github.com/agentplane/agentplane/agent/output"
	"github.com/agentplane/agentplane/agent/session"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// outputFiles is a Runner that keeps output, as execute.Runner does.
type outputFiles interface {
	Tail(execute.Attempt) (output.Reader, error)
	Result(execute.Attempt) (execute.Result, bool)
	Keep(execute.Attempt) error
	Kept(execute.Attempt) bool
}

// outputShelf is the output of this host's attempts, and who sends it. The zero value has
// none.
type outputShelf struct {
	files  outputFiles
	sender *output.Sender
}

func outputKey(k journal.Key) output.Key {
	return output.Key{Invocation: k.InvocationID, Attempt: k.Attempt}
}

func attemptOf(k output.Key) execute.Attempt {
	return execute.Attempt{InvocationID: k.Invocation, Number: k.Attempt}
}

func (s outputShelf) started(k journal.Key, adopted bool) {
	if s.sender != nil {
		s.sender.Started(outputKey(k), adopted)
	}
}

func (s outputShelf) ended(k journal.Key, e output.End, forgot bool) {
	if s.sender != nil {
		s.sender.Ended(outputKey(k), e, forgot)
	}
}

func (s outputShelf) waits(k journal.Key) bool {
	return s.sender != nil && s.sender.Waits(outputKey(k))
}

func (s outputShelf) forget(k journal.Key) {
	if s.sender != nil {
		s.sender.Forget(outputKey(k))
	}
}

// outputEnded says what there is of the output of an attempt that has ended.
func (w *worker) outputEnded(k journal.Key, forgot bool) {
	if w.o.Output.sender == nil {
		return
	}
	r, ok := w.o.Book.now().Lookup(k)
	if !ok || !r.Ended() || r.Never {
		return
	}
	p := reportOf(r, 0, w.o.Settings().Output.RaftBytes)
	e := output.End{
		Stdout: r.Result.StdoutBytes, Stderr: r.Result.StderrBytes, Whole: held(p.GetStdout()) && held(p.GetStderr()), GapReason: output.ReasonLimit,
	}
	if res, ok := w.o.Output.files.Result(attemptOf(outputKey(k))); ok && res.Unstored > 0 {
		e.GapReason = output.ReasonDisk
	}
	w.o.Output.ended(k, e, forgot)
}

// held says that head and tail are all that was printed.
func held(o *agentplanev1.Output) bool {
	return uint64(len(o.GetHead())+len(o.GetTail())) == o.GetTotalBytes()
}

// offerOld offers the output of attempts that ended in an earlier life of agentd.
func (w *worker) offerOld() {
	s := w.o.Output
	if s.sender == nil {
		return
	}
	all, err := w.o.Runner.Attempts()
	if err != nil {
		w.o.Logger.Error("output of earlier attempts is not offered", "err", err)
		return
	}
	for _, a := range all {
		if !s.files.Kept(a) {
			w.outputEnded(journal.Key{InvocationID: a.InvocationID, Attempt: a.Number}, true)
		}
	}
}

// beside runs beside each session: it lets what commands bring along be gotten from the
// node, and sends output, where there is any to send.
func (l *life) beside(o *opener) func(context.Context, session.Node, uint64) {
	return func(ctx context.Context, n session.Node, epoch uint64) {
		l.contents.near(func(ctx context.Context) (agentplanev1.AgentServiceClient, func(), error) { return o.OpenFetch(ctx, n) })
		defer l.contents.near(nil)
		if l.sender == nil {
			<-ctx.Done()
			return
		}
		l.sender.Beside(ctx, epoch, func(ctx context.Context) (output.Stream, func(), error) { return o.OpenOutput(ctx, n) })
	}
}

// readFrom and keepIn let the sender use the files of attempts.
func readFrom(files outputFiles) func(output.Key) (output.Reader, error) {
	return func(k output.Key) (output.Reader, error) { return files.Tail(attemptOf(k)) }
}

func keepIn(files outputFiles) func(output.Key) error {
	return func(k output.Key) error { return files.Keep(attemptOf(k)) }
}

// tailReader reads the files of a real host.
type tailReader struct{ *execute.Tail }

func (r tailReader) Next(most int) ([]output.Chunk, error) {
	stored, err := r.Tail.Next(most)
	chunks := make([]output.Chunk, len(stored))
	for i, c := range stored {
		chunks[i] = output.Chunk{Stream: agentplanev1.OutputStream(c.Stream), Offset: c.StreamOffset, Total: c.Offset, Data: c.Data}
	}
	return chunks, err
}
