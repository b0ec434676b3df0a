package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/term"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

// app is one run of the program.
type app struct {
	getenv         func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer
	now            func() time.Time

	flags   globals
	command string // full name of the command, for hints
	subject string // command that a verb of "commands" is about, for hints
	stdinOf string // flag that has read stdin
	color   bool   // stderr is a terminal that takes colours
}

// globals are the flags that every command knows.
type globals struct {
	addr           string
	context        string
	output         string
	requestTimeout time.Duration
	stale          bool
	id             string
	noColor        bool
}

// talk prints a line for people.
func (a *app) talk(format string, args ...any) {
	fmt.Fprintln(a.stderr, "agentctl: "+printable(fmt.Sprintf(format, args...)))
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// contexts returns the contexts file.
func (a *app) contexts() (*client.Contexts, error) {
	path, err := client.ContextsPath(a.getenv)
	if err != nil {
		return nil, err
	}
	return client.OpenContexts(path), nil
}

// addresses returns what --addr says.
func (a *app) addresses() ([]string, error) {
	if a.flags.addr == "" {
		return nil, nil
	}
	return splitAddresses(a.flags.addr)
}

func splitAddresses(s string) ([]string, error) {
	all := strings.Split(s, ",")
	for _, address := range all {
		if err := identity.ValidateAddress(address); err != nil {
			return nil, usagef("%w", err)
		}
	}
	return all, nil
}

// session is a client with the context that it calls under.
type session struct {
	*client.Client
	app      *app
	file     *client.Contexts
	context  *client.Context
	cert     atomic.Pointer[tls.Certificate]
	switched atomic.Bool // a node was left

	given []string // by --addr

	mu   sync.Mutex        // guards left
	left map[string]string // why a node was left, by its address
}

// renewPatience bounds the renewal of a certificate that is still good.
const renewPatience = 3 * time.Second

// connect makes a session of the chosen context; the caller closes it.
func (a *app) connect(ctx context.Context) (*session, error) {
	file, err := a.contexts()
	if err != nil {
		return nil, err
	}
	given, err := a.addresses()
	if err != nil {
		return nil, err
	}
	s := &session{app: a, file: file, given: given, left: map[string]string{}}
	if s.context, err = file.Load(a.flags.context); err != nil {
		return nil, err
	}
	cert, err := s.context.TLSCertificate()
	if err != nil {
		return nil, err
	}
	s.cert.Store(cert)
	s.Client, err = client.New(client.Options{
		Addresses:   append(given, s.context.Addresses...),
		Bundle:      s.context.Bundle,
		Certificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.cert.Load(), nil },
		OnBundle:    s.learn,
		OnFailover:  s.leave,
		OnExpired:   s.fetch,
		Clock:       identity.Wall(a.now),
		CallTimeout: a.flags.requestTimeout,
	})
	if err != nil {
		return nil, err
	}
	if err := s.renew(ctx); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// leave takes note of a node that did not serve.
func (s *session) leave(address string, err error) {
	s.switched.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left[address] = err.Error()
}

// sayOther says that none of the nodes of --addr has answered: whoever names a node may
// think of another cluster than that of the context.
func (s *session) sayOther() {
	answered := s.Address()
	if len(s.given) == 0 || slices.Contains(s.given, answered) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, address := range s.given {
		s.app.talk("note: %s of context %q answered, not %s of --addr: %s", answered, s.context.Name, address, cmp.Or(s.left[address], "it did not answer"))
	}
}

// learn writes a newer node list to the contexts file.
func (s *session) learn(b *agentplanev1.Bundle) {
	via := s.Address()
	err := s.file.Update(s.context.Name, func(c *client.Context) bool { return c.Learn(b, via) })
	if err != nil {
		s.app.talk("note: the newer list of nodes was not kept: %v", err)
	}
}

// renew gets a fresh certificate when half of the life of this one is over.
func (s *session) renew(ctx context.Context) error {
	now := s.app.now()
	if !client.RenewalDue(s.context.Certificate, now) {
		return nil
	}
	expired := !now.Before(s.cert.Load().Leaf.NotAfter)
	if !expired {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, renewPatience)
		defer cancel()
	}
	if err := s.fetch(ctx); err != nil && expired {
		return err
	}
	return nil // when it failed the next run tries again; this one is still good
}

// fetch gets a fresh certificate, uses it, and keeps it.
func (s *session) fetch(ctx context.Context) error {
	fresh, err := s.Renew(ctx, s.context.Key, s.context.ID())
	if err != nil {
		return err
	}
	s.context.Certificate, s.context.CACertificate = fresh.Certificate, fresh.CACertificate
	cert, err := s.context.TLSCertificate()
	if err != nil {
		return err
	}
	s.cert.Store(cert)
	s.Reconnect()
	err = s.file.Update(s.context.Name, func(c *client.Context) bool {
		if !c.Key.Public().Equal(s.context.Key.Public()) {
			return false // somebody logged in anew meanwhile
		}
		c.Certificate, c.CACertificate = fresh.Certificate, fresh.CACertificate
		c.Learn(fresh.Bundle, s.Address())
		return true
	})
	if err != nil {
		s.app.talk("note: the renewed certificate was not kept: %v", err)
	}
	return nil
}

// info asks for what a client needs before it makes anything. The answer's
// bundle is learnt on the way.
func (s *session) info(ctx context.Context) (*agentplanev1.InfoResponse, error) {
	info, err := s.Info(ctx)
	if errors.Is(err, identity.ErrWrongCluster) {
		return nil, fmt.Errorf("context %q: %w", s.context.Name, err)
	}
	return info, err
}

// learnPatience bounds the wait, after the work is done, for the list of nodes.
const learnPatience = 250 * time.Millisecond

// with runs f in a session. Beside it a node is asked for the list of nodes, so
// that whoever uses any command from time to time knows all of them on the day when
// those that were known are gone.
func (a *app) with(ctx context.Context, f func(*session) error) error {
	s, err := a.connect(ctx)
	if err != nil {
		return err
	}
	aside, cancel := context.WithCancel(ctx)
	learnt := make(chan struct{})
	go func() {
		defer close(learnt)
		// What fails here has no meaning: the list in use works, or f says why not.
		_, _ = s.Info(aside, client.Stale(true))
	}()
	defer func() {
		cancel()
		<-learnt
		_ = s.Close()
	}()
	if err := f(s); err != nil {
		return err
	}
	s.sayOther()
	if a.flags.stale {
		a.talk("note: stale: %s answered from its own state, at index %d, %s", s.Address(), s.AppliedIndex(), age(s.LeaderAge()))
	}
	select {
	case <-learnt:
	case <-time.After(learnPatience):
	}
	if s.switched.Load() {
		s.putFirst(s.Address())
	}
	return nil
}

// refresh asks for the list of nodes after it has changed, if that costs little.
func (s *session) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, _ = s.info(ctx) // the list in use has just worked
}

// putFirst makes the next run begin with the node that answers: one that is frozen
// costs a second each time.
func (s *session) putFirst(address string) {
	err := s.file.Update(s.context.Name, func(c *client.Context) bool {
		i := slices.Index(c.Addresses, address)
		if i <= 0 {
			return false
		}
		c.Addresses = slices.Concat([]string{address}, c.Addresses[:i], c.Addresses[i+1:])
		return true
	})
	if err != nil {
		s.app.talk("note: the order of the nodes was not kept: %v", err)
	}
}

// localError makes errors of the node's own socket look like those of a cluster.
func localError(dataDir string, err error, write bool) error {
	e := client.AsError(err)
	e.OutcomeUnknown = e.OutcomeUnknown && write
	return fmt.Errorf("ask the node of %q: %w", dataDir, e)
}

// unreachable says that no node serves the data directory.
func unreachable(dataDir string, err error) error {
	if errors.Is(err, os.ErrPermission) {
		return &failure{code: exitDenied, err: err, hint: "run this as the user whose node it is, or as root"}
	}
	return &failure{
		code: exitUnavailable, err: err,
		hint: fmt.Sprintf("start the node on this machine first: agentplane run --data-dir %s", dataDir),
	}
}
