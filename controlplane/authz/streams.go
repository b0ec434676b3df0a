package authz

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// streams are the open streams of operators, by the operator's name.
type streams struct {
	mu   sync.Mutex // guards open
	open map[string]map[*stream]struct{}
}

// stream is one that the gate has let through.
type stream struct {
	caller Caller
	rule   Rule
	end    context.CancelCauseFunc
}

func (s *streams) add(o *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = make(map[string]map[*stream]struct{})
	}
	if s.open[o.caller.Name] == nil {
		s.open[o.caller.Name] = make(map[*stream]struct{})
	}
	s.open[o.caller.Name][o] = struct{}{}
}

func (s *streams) remove(o *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open[o.caller.Name], o)
	if len(s.open[o.caller.Name]) == 0 {
		delete(s.open, o.caller.Name)
	}
}

// of returns the streams of the operator, or with all everybody's.
func (s *streams) of(name string, all bool) (found []*stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for of, open := range s.open {
		if !all && of != name {
			continue
		}
		for o := range open {
			found = append(found, o)
		}
	}
	return found
}

// Stream is a server interceptor. The stream of an operator ends when this node's state
// no longer lets its caller in; see Run.
func (g *Gate) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, err := g.Admit(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	if From(ctx).Kind != "operator" {
		return handler(srv, admitted{ss, ctx})
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	o := &stream{caller: From(ctx), rule: g.rules[info.FullMethod], end: end}
	g.streams.add(o)
	defer g.streams.remove(o)
	g.judgeStream(o) // the state may have moved before it was added
	if err = handler(srv, admitted{ss, ctx}); err == nil {
		return nil
	}
	if cause := context.Cause(ctx); agentplanev1.DetailOf(cause) != nil {
		return cause // the handler only saw that its context has ended
	}
	return err
}

// judgeStream ends the stream when its caller may not have it any more.
func (g *Gate) judgeStream(o *stream) {
	c := o.caller
	switch err := g.judge(&c, o.rule); {
	case errors.Is(err, errUnregistered):
		o.end(deny("not_registered", "%v", err))
	case err != nil:
		o.end(err)
	}
}

// Run follows the operators in the machine, which is the one that the gate's View
// shows, and ends the open streams of those who may not have them any more. It returns
// nil when ctx ends.
func (g *Gate) Run(ctx context.Context, m *fsm.Machine) error {
	var following sync.WaitGroup
	defer following.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_, cursor := m.ViewAndWatch()
	news := make(chan fsm.News)
	following.Go(func() { m.Follow(ctx, cursor, news, fsm.TableOperators) })
	judge := func(name string, all bool) {
		for _, o := range g.streams.of(name, all) {
			g.judgeStream(o)
		}
	}
	judge("", true)
	for {
		select {
		case n := <-news:
			if n.List != nil {
				judge("", true)
			}
			for _, c := range n.Changes {
				judge(c.Key, false)
			}
		case <-ctx.Done():
			return nil
		}
	}
}
