package output

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// Why output is not there.
const (
	ReasonLimit = "agent_limit" // more was printed than the host keeps
	ReasonDisk  = "agent_disk"  // the host could not store it
	ReasonLost  = "lost"        // it was stored and cannot be read
)

// Key names an attempt.
type Key struct {
	Invocation string
	Attempt    uint32
}

// Chunk is output of one stream as it lies on disk.
type Chunk struct {
	Stream agentplanev1.OutputStream
	Offset uint64 // in its stream
	Total  uint64 // in both streams together
	Data   []byte
}

// Reader reads an attempt's output in order, from its begin, while it grows.
type Reader interface {
	// Next gives the next chunks, of about most bytes, or none when there is nothing new.
	Next(most int) ([]Chunk, error)
	Close()
}

// Stream is the client's half of AgentService.Output.
type Stream interface {
	Send(*agentplanev1.OutputRequest) error
	Recv() (*agentplanev1.OutputResponse, error)
}

// Options configure a Sender. All fields are required.
type Options struct {
	// Read begins to read an attempt's output.
	Read func(Key) (Reader, error)
	// Done notes that an attempt's output is not wanted any more.
	Done   func(Key) error
	Logger hclog.Logger
}

// End is how the output of an attempt has ended.
type End struct {
	Stdout, Stderr uint64 // bytes that were printed
	Whole          bool   // the result holds all of it
	GapReason      string // why what cannot be read is missing
}

// Sender sends the output of this agent. Its methods may be called at once.
type Sender struct {
	o    Options
	wake chan struct{} // something has begun or ended; holds one

	mu    sync.Mutex // guards what follows
	items map[Key]*item
	order []Key // as they came
}

// item is output that is not done with.
type item struct {
	key    Key
	end    *End // nil while the program runs
	acked  ends
	forgot bool // agentd was started since it began
	tried  bool // it was offered to some node
}

// ends counts both streams.
type ends [2]uint64

func (e ends) total() uint64 { return e[0] + e[1] }

func (e ends) proto() *agentplanev1.OutputEnds {
	return &agentplanev1.OutputEnds{Stdout: e[0], Stderr: e[1]}
}

func endsOf(p *agentplanev1.OutputEnds) ends { return ends{p.GetStdout(), p.GetStderr()} }

// New makes a Sender; it touches nothing outside.
func New(o Options) *Sender {
	return &Sender{o: o, wake: make(chan struct{}, 1), items: make(map[Key]*item)}
}

// Started says that a program runs whose output may be watched. forgot says that an
// earlier life of agentd started it.
func (s *Sender) Started(k Key, forgot bool) {
	s.mu.Lock()
	if s.items[k] == nil {
		s.addLocked(&item{key: k, forgot: forgot})
	}
	s.mu.Unlock()
	s.stir()
}

// Ended says that there will be no more output of an attempt. What its result holds, and
// was not offered before, is not sent.
func (s *Sender) Ended(k Key, e End, forgot bool) {
	s.mu.Lock()
	i := s.items[k]
	switch {
	case i == nil && e.Whole:
	case i == nil:
		s.addLocked(&item{key: k, end: &e, forgot: forgot})
	case e.Whole && !i.tried:
		s.dropLocked(k)
	default:
		i.end = &e
	}
	s.mu.Unlock()
	s.stir()
}

// Waits says whether output of an attempt is not done with.
func (s *Sender) Waits(k Key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.items[k] != nil
}

// Forget drops an attempt whose output is gone.
func (s *Sender) Forget(k Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLocked(k)
}

func (s *Sender) addLocked(i *item) {
	s.items[i.key] = i
	s.order = append(s.order, i.key)
}

func (s *Sender) dropLocked(k Key) {
	if s.items[k] == nil {
		return
	}
	delete(s.items, k)
	for n, other := range s.order {
		if other == k {
			s.order = append(s.order[:n:n], s.order[n+1:]...)
			return
		}
	}
}

func (s *Sender) stir() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Opener opens the stream to the node of the session. The stream ends with ctx; release,
// called after that, frees its connection.
type Opener func(ctx context.Context) (stream Stream, release func(), err error)

// Beside sends output while a session stands, until ctx ends. A stream that breaks is
// opened again.
func (s *Sender) Beside(ctx context.Context, epoch uint64, open Opener) {
	const least, most = 200 * time.Millisecond, 5 * time.Second
	for wait := least; ctx.Err() == nil; {
		began := time.Now()
		err := s.serve(ctx, epoch, open)
		if ctx.Err() != nil {
			return
		}
		if status.Code(errors.Unwrap(err)) == codes.Unimplemented || status.Code(err) == codes.Unimplemented {
			s.o.Logger.Debug("the node takes no output", "err", err)
			<-ctx.Done()
			return
		}
		s.o.Logger.Debug("stream of output ended", "err", err)
		if time.Since(began) > most {
			wait = least
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
		wait = min(2*wait, most)
	}
}
