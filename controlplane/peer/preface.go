package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/frame"
)

const (
	prefaceKey      = "agentplane-preface-bin"
	framePreface    = 'P'
	maxPrefaceBytes = 4 << 10
)

// ErrPreface is what every refusal by a preface wraps.
var ErrPreface = errors.New("refused by the connection preface")

// ErrPutBack says that a node has less on its disk than it was seen with.
var ErrPutBack = errors.New("its disk was put back to an earlier time")

// Reasons in the details of a call that a preface refused.
const (
	ReasonPreface = "preface"
	ReasonPutBack = "put_back"
)

// Prefaces makes and judges what nodes say first.
type Prefaces struct {
	// Self answers this node's preface, without the node that is meant.
	Self func() *agentplanev1.Preface
	// FeatureLevel is the cluster's: a node below it is refused.
	FeatureLevel func() uint32
	// Seen remembers what a peer says of itself, and refuses what lies before what is
	// remembered: its disk was put back. May be nil.
	Seen func(nodeID string, said *agentplanev1.Preface) error
}

// to returns this node's preface for one peer.
func (p Prefaces) to(nodeID string) *agentplanev1.Preface {
	me := p.Self()
	me.To = nodeID
	return me
}

// Judge says why the peer, whose certificate is nodeID's, is refused; nil when it
// is not. Each side judges the other by the same rule, so the side that is older
// learns it from its own judgement or from the other's words.
func (p Prefaces) Judge(nodeID string, theirs *agentplanev1.Preface) error {
	if !judgesPrefaces {
		return nil
	}
	me := p.Self()
	mine, its := me.GetIncarnation(), theirs.GetIncarnation()
	switch {
	case theirs.GetRefused() != "":
		return fmt.Errorf("%w: node %q says: %s", ErrPreface, nodeID, theirs.GetRefused())
	case theirs.GetClusterId() != me.GetClusterId():
		return fmt.Errorf("%w: node %q belongs to cluster %q, this one to %q", ErrPreface, nodeID, theirs.GetClusterId(), me.GetClusterId())
	case comparesIncarnations && its.GetNumber() != mine.GetNumber():
		return fmt.Errorf("%w: node %q lives in incarnation %d of the cluster, this one in %d: the older one must rejoin", ErrPreface, nodeID, its.GetNumber(), mine.GetNumber())
	case comparesIncarnations && !bytes.Equal(its.GetId(), mine.GetId()):
		return fmt.Errorf("%w: node %q lives in another incarnation %d: the cluster was recovered twice", ErrPreface, nodeID, its.GetNumber())
	case theirs.GetFrom() != nodeID:
		return fmt.Errorf("%w: node %q calls itself %q", ErrPreface, nodeID, theirs.GetFrom())
	case theirs.GetTo() != me.GetFrom():
		return fmt.Errorf("%w: node %q means node %q, this is %q", ErrPreface, nodeID, theirs.GetTo(), me.GetFrom())
	case theirs.GetFeatureLevel() < p.FeatureLevel():
		return fmt.Errorf("%w: node %q has feature level %d, the cluster %d: upgrade it", ErrPreface, nodeID, theirs.GetFeatureLevel(), p.FeatureLevel())
	}
	if p.Seen != nil {
		if err := p.Seen(nodeID, theirs); err != nil {
			return fmt.Errorf("%w: %w", ErrPreface, err)
		}
	}
	return nil
}

// write and read exchange prefaces on a raft connection.
func writePreface(w io.Writer, p *agentplanev1.Preface) error {
	b, err := proto.Marshal(p)
	if err != nil {
		return fmt.Errorf("write preface: %w", err)
	}
	if _, err := w.Write(frame.Append(nil, framePreface, b)); err != nil {
		return fmt.Errorf("write preface: %w", err)
	}
	return nil
}

func readPreface(r io.Reader) (*agentplanev1.Preface, error) {
	typ, b, err := frame.NewReader(r, maxPrefaceBytes).Next()
	if err != nil {
		return nil, fmt.Errorf("read preface: %w", err)
	}
	p := new(agentplanev1.Preface)
	if err := proto.Unmarshal(b, p); err != nil || typ != framePreface {
		return nil, fmt.Errorf("read preface: frame of type %q is not one", typ)
	}
	return p, nil
}

// ServerInterceptor judges the preface of each call to the peer service, and
// answers with this node's.
func (p Prefaces) ServerInterceptor(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if !isPeerMethod(info.FullMethod) {
		return handler(ctx, req)
	}
	if err := p.receive(ctx); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// receive judges the preface in the call's metadata, and puts this node's into the
// header of the answer. The error is a refusal.
func (p Prefaces) receive(ctx context.Context) error {
	caller, _ := Caller(ctx)
	theirs, err := prefaceIn(metadata.ValueFromIncomingContext(ctx, prefaceKey))
	if err == nil {
		err = p.Judge(caller.ID.Name, theirs)
	}
	answer := p.to(caller.ID.Name)
	if err != nil {
		answer.Refused = err.Error()
	}
	b, merr := proto.Marshal(answer)
	if merr != nil {
		return status.Errorf(codes.Internal, "marshal preface: %v", merr)
	}
	if serr := grpc.SetHeader(ctx, metadata.Pairs(prefaceKey, string(b))); serr != nil {
		return status.Errorf(codes.Internal, "send preface: %v", serr)
	}
	if err != nil {
		detail := &agentplanev1.ErrorDetail{Reason: ReasonPreface}
		if errors.Is(err, ErrPutBack) {
			detail.Reason = ReasonPutBack
		}
		return agentplanev1.Refusal(codes.FailedPrecondition, detail, "%v", err)
	}
	return nil
}

// clientInterceptor sends this node's preface and judges the peer's.
func (p Prefaces) clientInterceptor(nodeID string) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		ctx, err := p.say(ctx, nodeID)
		if err != nil {
			return err
		}
		var header metadata.MD
		if err := invoke(ctx, method, req, reply, cc, append(opts, grpc.Header(&header))...); err != nil {
			return err
		}
		return p.hear(nodeID, header)
	}
}

// say puts this node's preface into the metadata of a call.
func (p Prefaces) say(ctx context.Context, nodeID string) (context.Context, error) {
	b, err := proto.Marshal(p.to(nodeID))
	if err != nil {
		return nil, fmt.Errorf("marshal preface: %w", err)
	}
	return metadata.AppendToOutgoingContext(ctx, prefaceKey, string(b)), nil
}

// hear judges the preface in the header of an answer. What was asked may have been done by whoever
// answers, so that a refusal says that its outcome is unknown (I8).
func (p Prefaces) hear(nodeID string, header metadata.MD) error {
	theirs, err := prefaceIn(header.Get(prefaceKey))
	if err == nil {
		err = p.Judge(nodeID, theirs)
	}
	if err != nil {
		return agentplanev1.Refusal(codes.FailedPrecondition, &agentplanev1.ErrorDetail{
			Reason: ReasonPreface, OutcomeUnknown: true,
		}, "%v", err)
	}
	return nil
}

func prefaceIn(values []string) (*agentplanev1.Preface, error) {
	if len(values) != 1 {
		return nil, fmt.Errorf("%w: there are %d prefaces, want 1", ErrPreface, len(values))
	}
	p := new(agentplanev1.Preface)
	if err := proto.Unmarshal([]byte(values[0]), p); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPreface, err)
	}
	return p, nil
}

const peerService = "/agentplane.v1.PeerService/"

func isPeerMethod(full string) bool {
	return len(full) > len(peerService) && full[:len(peerService)] == peerService
}
