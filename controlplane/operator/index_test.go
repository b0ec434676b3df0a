package operator

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// trailers stands for the transport below a unary call and a stream.
type trailers struct {
	grpc.ServerStream
	ctx context.Context
	md  metadata.MD
}

func (s *trailers) Method() string                      { return "/x/y" }
func (s *trailers) SetHeader(metadata.MD) error         { return nil }
func (s *trailers) SendHeader(metadata.MD) error        { return nil }
func (s *trailers) Context() context.Context            { return s.ctx }
func (s *trailers) SetTrailer(md metadata.MD)           { s.md = metadata.Join(s.md, md) }
func (u unaryTrailers) SetTrailer(md metadata.MD) error { u.trailers.SetTrailer(md); return nil }

type unaryTrailers struct{ *trailers }

func (s *trailers) index(t *testing.T) uint64 {
	t.Helper()
	v := s.md.Get(client.AppliedIndexKey)
	if len(v) != 1 {
		t.Fatalf("trailer %v", s.md)
	}
	n, err := strconv.ParseUint(v[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// both runs handler behind the unary and the stream interceptor of a machine whose
// index is at.
func both(t *testing.T, at uint64, md metadata.MD, handler func(*fsm.Machine) error, judge func(t *testing.T, m *fsm.Machine, s *trailers, err error)) {
	t.Helper()
	run := func(name string, call func(t *testing.T, m *fsm.Machine, s *trailers) error) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := fsm.New(fsm.Options{})
				m.Advance(at)
				s := &trailers{ctx: metadata.NewIncomingContext(t.Context(), md)}
				judge(t, m, s, call(t, m, s))
			})
		})
	}
	run("unary", func(_ *testing.T, m *fsm.Machine, s *trailers) error {
		unary, _ := AppliedIndex(m, heardOf)
		ctx := grpc.NewContextWithServerTransportStream(s.ctx, unaryTrailers{s})
		_, err := unary(ctx, nil, nil, func(context.Context, any) (any, error) { return nil, handler(m) })
		return err
	})
	run("stream", func(_ *testing.T, m *fsm.Machine, s *trailers) error {
		_, stream := AppliedIndex(m, heardOf)
		return stream(nil, s, nil, func(any, grpc.ServerStream) error { return handler(m) })
	})
}

// heardOf is the time of a leader that was heard of 1.5 s before each answer.
func heardOf() time.Time { return time.Now().Add(-1500 * time.Millisecond) }

func TestEveryAnswerSaysHowLongAgoALeaderWasHeardOf(t *testing.T) {
	both(t, 3, nil, func(*fsm.Machine) error { return nil }, func(t *testing.T, _ *fsm.Machine, s *trailers, _ error) {
		if got := s.md.Get(client.LeaderAgeKey); len(got) != 1 || got[0] != "1500" {
			t.Errorf("%s is %q, want 1500", client.LeaderAgeKey, got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := &trailers{ctx: t.Context()}
		_, stream := AppliedIndex(fsm.New(fsm.Options{}), func() time.Time { return time.Time{} })
		if err := stream(nil, s, nil, func(any, grpc.ServerStream) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if got := s.md.Get(client.LeaderAgeKey); len(got) != 0 {
			t.Errorf("no leader was ever heard of, and %s is %q", client.LeaderAgeKey, got)
		}
	})
}

func TestEveryAnswerCarriesTheAppliedIndex(t *testing.T) {
	for name, want := range map[string]error{"an answer": nil, "a refusal": errors.New("no")} {
		t.Run(name, func(t *testing.T) {
			both(t, 3, nil, func(m *fsm.Machine) error { m.Advance(8); return want }, func(t *testing.T, _ *fsm.Machine, s *trailers, err error) {
				if got := s.index(t); got != 8 || !errors.Is(err, want) { // taken after the handler, not before
					t.Fatalf("index %d, error %v; want 8, %v", got, err, want)
				}
			})
		})
	}
}

func TestACallWaitsForWhatItsCallerHasSeen(t *testing.T) {
	fine := func(*fsm.Machine) error { return nil }
	t.Run("and then runs", func(t *testing.T) {
		both(t, 10, metadata.Pairs(client.MinIndexKey, "10"), fine, func(t *testing.T, _ *fsm.Machine, _ *trailers, err error) {
			if err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("which arrives while it waits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := fsm.New(fsm.Options{})
			go func() {
				time.Sleep(time.Second)
				m.Advance(11)
			}()
			ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(client.MinIndexKey, "11"))
			start := time.Now()
			if err := waitIndex(ctx, m); err != nil || time.Since(start) != time.Second {
				t.Fatalf("%v after %v", err, time.Since(start))
			}
		})
	})
	t.Run("but not for ever", func(t *testing.T) {
		never := func(*fsm.Machine) error { t.Error("the handler ran"); return nil }
		both(t, 10, metadata.Pairs(client.MinIndexKey, "18446744073709551615"), never, func(t *testing.T, _ *fsm.Machine, s *trailers, err error) {
			wantRefusal(t, err, codes.Unavailable, "catching_up")
			if agentplanev1.DetailOf(err).GetAppliedIndex() != 10 || s.index(t) != 10 {
				t.Fatalf("detail %v", agentplanev1.DetailOf(err))
			}
		})
	})
	t.Run("and refuses nonsense", func(t *testing.T) {
		both(t, 1, metadata.Pairs(client.MinIndexKey, "-1"), fine, func(t *testing.T, _ *fsm.Machine, _ *trailers, err error) {
			wantRefusal(t, err, codes.InvalidArgument, "min_index")
		})
	})
}
