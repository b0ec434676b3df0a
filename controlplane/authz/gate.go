package authz

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
)

// Caller is who calls, as far as the handshake tells, and after the gate as far as
// the registry tells too.
type Caller struct {
	// Kind is "node", "agent", "operator", "local", or "" for somebody without a
	// certificate.
	Kind string
	Name string
	Key  identity.PublicKey
	// RenewOnly says that the certificate has expired or its CA has left.
	RenewOnly bool
	// Role of an operator; set by the gate.
	Role string
	// From is the address, for people.
	From string
	// Forwarded says that another node passed the call on.
	Forwarded bool
}

// String names the caller for logs and rows: "alice", "node n1", "local".
func (c Caller) String() string {
	switch c.Kind {
	case "operator":
		return c.Name
	case "":
		return "somebody at " + c.From
	case "local":
		return "local"
	default:
		return c.Kind + " " + c.Name
	}
}

type callerKey struct{}

// WithCaller returns a context in which the gate believes the caller; used where a
// call does not come over the port.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// From returns the caller that the gate has let through.
func From(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// Options configures a Gate. All fields are required where nothing else is said.
type Options struct {
	// Identify answers who calls, by the connection.
	Identify func(ctx context.Context) (Caller, error)
	// View is this node's state.
	View func() *fsm.View
	// CatchUp returns when the state holds all that was acknowledged before the
	// call.
	CatchUp func(ctx context.Context) error
	// Hint says what to type when the node cannot catch up, and so cannot know the
	// caller. May be empty.
	Hint string
}

// Gate enforces the rules on every call.
type Gate struct {
	o       Options
	rules   map[string]Rule
	streams streams
}

// New returns a Gate for the API's rules.
func New(o Options) *Gate { return &Gate{o: o, rules: Rules()} }

// Rule returns the rule of a method.
func (g *Gate) Rule(method string) (Rule, bool) {
	r, ok := g.rules[method]
	return r, ok
}

// Unary is a server interceptor.
func (g *Gate) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, err := g.Admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

type admitted struct {
	grpc.ServerStream
	ctx context.Context
}

func (a admitted) Context() context.Context { return a.ctx }

// Admit returns a context with the caller, or why the call is refused.
func (g *Gate) Admit(ctx context.Context, method string) (context.Context, error) {
	rule, ok := g.rules[method]
	if !ok {
		return nil, deny("no_permission_named", "method %s names no permission and is denied to everybody", method)
	}
	c, given := ctx.Value(callerKey{}).(Caller)
	if !given {
		var err error
		if c, err = g.o.Identify(ctx); err != nil {
			return nil, deny("not_identified", "%v", err)
		}
	}
	err := g.judge(&c, rule)
	if errors.Is(err, errUnregistered) {
		if cerr := g.o.CatchUp(ctx); cerr != nil {
			return nil, agentplanev1.Refusal(codes.Unavailable, &agentplanev1.ErrorDetail{Reason: "catching_up", Hint: g.o.Hint},
				"%s is not known here yet, and this node cannot catch up: %v", c, cerr)
		}
		err = g.judge(&c, rule)
	}
	if err != nil {
		if errors.Is(err, errUnregistered) {
			return nil, unregistered(err)
		}
		return nil, err
	}
	return WithCaller(ctx, c), nil
}

// errUnregistered says that the registry does not have the key for the name.
var errUnregistered = errors.New("the key is not the registered one")

func (g *Gate) judge(c *Caller, rule Rule) error {
	switch rule.Permission {
	case Public:
		return nil
	case Local:
		if c.Kind != "local" {
			return deny("local_only", "only the node's own socket may call this")
		}
		return nil
	case Renew:
		return g.registered(c)
	}
	switch {
	case c.Kind == "":
		return unauthenticated("no_certificate", "log in with \"agentctl login TOKEN@ADDR\"", "no certificate was shown")
	case c.RenewOnly:
		return unauthenticated("certificate_expired", "run the command again: the certificate is renewed by itself; check the clocks when it is not",
			"the certificate of %s has expired, or its issuer has left the cluster: it may only be renewed", c)
	}
	if err := g.registered(c); err != nil {
		return err
	}
	switch {
	case rule.Permission == Agent && c.Kind == "agent", rule.Permission == Peer && c.Kind == "node" && !c.Forwarded:
		return nil
	case rule.Permission == Agent || rule.Permission == Peer:
		return deny("wrong_kind", "%s may not call what is for %ss", c, map[string]string{Agent: "agent", Peer: "node"}[rule.Permission])
	case c.Kind == "local", c.Kind == "operator" && (!comparesRoles || Allowed(c.Role, rule.Permission)):
		return nil
	case c.Kind == "operator":
		return deny("role", "operator %q has role %s, which lacks the permission %s", c.Name, c.Role, rule.Permission)
	default:
		return deny("wrong_kind", "%s may not call what is for operators", c)
	}
}

// Still judges again the caller that the gate has let through, by the state as it is
// now: a call that waited for the state to catch up may have been let through by one
// that did not know of a revocation yet.
func (g *Gate) Still(ctx context.Context) error {
	c := From(ctx)
	if c.Kind != "operator" && c.Kind != "agent" {
		return nil // nodes are judged by the trust bundle, the others by what they bring
	}
	err := g.registered(&c)
	if errors.Is(err, errUnregistered) {
		return unregistered(err)
	}
	return err
}

// registered compares the proved key with the registry.
func (g *Gate) registered(c *Caller) error {
	v := g.o.View()
	switch c.Kind {
	case "local":
		return nil
	case "operator":
		o, ok := v.Operator(c.Name)
		if !ok || !c.Key.Equal(o.GetPublicKey()) {
			return fmt.Errorf("%w: operator %q with key %s is not registered", errUnregistered, c.Name, c.Key)
		}
		if o.GetRevokedAt() != 0 {
			return deny("operator_revoked", "operator %q was revoked", c.Name)
		}
		c.Role = o.GetRole()
	case "agent":
		return registeredAgent(v, c)
	case "node":
		// The handshake has compared the key with the trust bundle, which may be
		// newer than the state of a node that is catching up.
	default:
		return unauthenticated("no_certificate", "log in with \"agentctl login TOKEN@ADDR\"", "no certificate was shown")
	}
	return nil
}

// registeredAgent tells the three ways in which an agent's key is not the registered one
// apart: each is mended otherwise, by the person who reads the agent's log.
func registeredAgent(v *fsm.View, c *Caller) error {
	a, found := v.Agent(c.Name)
	switch {
	case !found:
		return &agentError{
			fmt.Sprintf("agent %q was removed, or never enrolled", c.Name),
			"stop it; or start it with a new token of \"agentctl tokens create --kind agent\" (--token), and it enrols again",
		}
	case len(a.GetPublicKey()) == 0:
		return &agentError{
			fmt.Sprintf("agent %q was readmitted and has to enrol again with a new key and a new token", c.Name),
			"start it with a token of \"agentctl tokens create --kind agent\" (--token); it makes the key itself",
		}
	case !c.Key.Equal(a.GetPublicKey()):
		return &agentError{
			fmt.Sprintf("agent %q has another key than %s", c.Name, c.Key),
			"a copy of its data directory has enrolled again, or this one was put back: stop this agent and remove its data directory",
		}
	}
	return nil
}

// agentError is errUnregistered of an agent, with what is to be done about it.
type agentError struct{ text, hint string }

// Error is the error interface's.
func (e *agentError) Error() string { return e.text }

// Is says that this is errUnregistered.
func (e *agentError) Is(target error) bool { return target == errUnregistered }

func unregistered(err error) error {
	d := &agentplanev1.ErrorDetail{Reason: "not_registered"}
	if e, ok := errors.AsType[*agentError](err); ok {
		d.Hint = e.hint
	}
	return agentplanev1.Refusal(codes.PermissionDenied, d, "%v", err)
}

func deny(reason, format string, args ...any) error {
	return agentplanev1.Refusal(codes.PermissionDenied, &agentplanev1.ErrorDetail{Reason: reason}, format, args...)
}

func unauthenticated(reason, hint, format string, args ...any) error {
	return agentplanev1.Refusal(codes.Unauthenticated, &agentplanev1.ErrorDetail{Reason: reason, Hint: hint}, format, args...)
}
