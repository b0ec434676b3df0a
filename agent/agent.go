package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/agentplane/agentplane/agent/collect"
	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/agent/journal"
	"github.com/agentplane/agentplane/agent/output"
	"github.com/agentplane/agentplane/agent/session"
	"github.com/agentplane/agentplane/configs"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

// Agent is one life of agentd on one data directory.
type Agent struct {
	o      Options
	config configs.Agent // as New has seen it
}

// New makes an Agent; it touches nothing outside.
func New(o Options) (*Agent, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.WallClock == nil {
		o.WallClock = time.Now
	}
	return &Agent{o: o, config: o.Settings()}, nil
}

// Run is the agent's life: it enrols if need be, adopts what an earlier life has started,
// and serves the cluster until ctx ends; then it returns nil. Running programs go on. An
// error says why there was no life: ErrInUse, ErrNotEnrolled, ErrToken, ErrEnrolment, or
// what the data directory gave. It may be called once; when it returns, no goroutine of
// the agent is left.
func (a *Agent) Run(ctx context.Context) (err error) {
	dir, err := openDirectory(a.config.DataDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.close()) }()
	l := &life{Agent: a, dir: dir}
	if err := l.identify(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // told to stop before there was anything to stop
		}
		return err
	}
	if err := l.open(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.book.close()) }()
	if a.o.opened != nil {
		a.o.opened(l)
	}
	return l.serve(ctx)
}

// life is what Run has opened.
type life struct {
	*Agent
	dir        *directory
	record     record
	credential *credential
	trust      *trust
	enrolment  *enrolment
	clock      session.Clock
	book       *book
	worker     *worker
	sender     *output.Sender // nil when nothing keeps output
	contents   *contents
	contact    *contact
}

// moment is what this host knows of the time: once a node has said the cluster's, a wall clock
// that is set wrong does not keep it from the cluster.
func (l *life) moment() identity.Moment {
	m := identity.Moment{Own: l.o.WallClock()}
	if now, known := l.clock.Now(); known {
		m.Cluster = time.Unix(0, now)
	}
	return m
}

// identify knows who this agent is, if need be by enrolment.
func (l *life) identify(ctx context.Context) error {
	r, err := loadRecord(l.dir)
	if err != nil {
		return err
	}
	l.enrolment = &enrolment{config: l.config, version: l.o.Version, dir: l.dir, dial: l.o.Dial, clock: l.moment, log: l.o.Logger}
	lost := r.enrolled() && l.dir.lacks(certificateFile, trustFile)
	switch hasToken := l.config.Token != "" || l.config.TokenFile != ""; {
	case lost && !hasToken:
		return fmt.Errorf("%w: %s or %s is missing in %q", ErrNotEnrolled, certificateFile, trustFile, l.dir.path)
	case lost, !r.enrolled():
		if r, err = l.enrolment.Run(ctx, r); err != nil {
			return err
		}
	case hasToken:
		l.o.Logger.Info("already enrolled; the token is used only if the cluster asks this agent to enrol again",
			"cluster_id", r.ClusterID, "agent_id", r.AgentID, "name", r.Name)
	}
	l.record = r
	if l.credential, err = loadCredential(l.dir, r.id()); err != nil {
		return err
	}
	l.trust, err = loadTrust(l.dir.file(trustFile), slices.Clone(l.config.Servers))
	return err
}

// open opens the journal and what runs programs.
func (l *life) open() error {
	now := func() int64 { return l.moment().Now().UnixNano() }
	options := func() journal.Options {
		return journal.Options{Retention: l.o.Settings().Journal.Retention, Synced: l.o.JournalSynced}
	}
	var err error
	if l.book, err = openBook(l.dir.path, options, now, l.o.Logger.Named("journal")); err != nil {
		return err
	}
	if err := l.firstFloor(); err != nil {
		_ = l.book.close()
		return err
	}
	l.contact = &contact{trust: l.trust}
	runner, err := l.openRunner()
	if err != nil {
		_ = l.book.close()
		return err
	}
	var shelf outputShelf
	if files, ok := runner.(outputFiles); ok {
		l.sender = output.New(output.Options{Read: readFrom(files), Done: keepIn(files), Logger: l.o.Logger.Named("output")})
		shelf = outputShelf{files: files, sender: l.sender}
	}
	if l.contents, err = openContents(l.dir.file(blobsDir), l.o.Settings, l.o.Logger.Named("files")); err != nil {
		_ = l.book.close()
		return err
	}
	l.worker = newWorker(workerOptions{
		AgentID: l.record.AgentID, Name: l.record.Name, ClusterID: l.record.ClusterID, Slots: l.config.Slots,
		Book: l.book, Runner: runner, Clock: &l.clock, Now: now, Settings: l.o.Settings, Policy: l.o.Policy, Output: shelf,
		Contents: l.contents, Logger: l.o.Logger.Named("work"),
	})
	return nil
}

// firstFloor gives the agent's first journal the time of enrolment as its floor; any later
// one gets the time of its first Welcome.
func (l *life) firstFloor() error {
	if l.record.FloorGiven {
		return nil
	}
	l.record.FloorGiven = true
	if err := l.record.store(l.dir.file(recordFile)); err != nil {
		return err
	}
	if _, known := l.book.now().Floor(); known || l.record.EnrolledAt <= 0 {
		return nil
	}
	return l.book.now().SetFloor(l.record.EnrolledAt)
}

// serve runs until ctx ends. The session ends first, so that goodbye is said; what it
// needs ends after it.
func (l *life) serve(ctx context.Context) error {
	facts := collect.New(collect.Options{
		Interval: func() time.Duration { return l.o.Settings().Facts.Interval },
		Read:     l.o.Facts,
		Own:      map[string]string{"agent_version": l.o.Version, "go_version": runtime.Version()},
	})
	renew := newRenewer(l.credential, l.trust, l.o.Dial, l.moment, l.o.Logger.Named("identity"))
	startID := make([]byte, 16)
	_, _ = rand.Read(startID) // never fails
	opener := &opener{dial: l.o.Dial, clock: l.moment, trust: l.trust, credential: l.credential, renewer: renew}
	l.contact.opener = opener
	keeper, err := session.New(session.Options{
		AgentID: l.record.AgentID, ClusterID: l.record.ClusterID, Version: l.o.Version,
		BootID: l.bootID(), StartID: startID, Slots: l.config.Slots,
		Opener: opener, Beside: l.beside(opener),
		Trust: l.trust, Work: l.worker, Facts: facts, Clock: &l.clock,
		Removed: l.enrolAgain, Rebooting: func() bool { return l.worker.Rebooting() || rebooting() }, Logger: l.o.Logger.Named("session"), BackoffCap: l.o.BackoffCap,
	})
	if err != nil {
		return err
	}
	l.o.Logger.Info("agentd runs", "version", l.o.Version, "agent_id", l.record.AgentID, "name", l.record.Name,
		"cluster_id", l.record.ClusterID, "journal_id", l.book.now().ID().String(), "slots", l.config.Slots)

	behind, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	l.worker.Adopt(behind)
	l.worker.sweep()
	l.worker.offerOld()
	var group errgroup.Group
	group.Go(func() error { return l.worker.Run(behind) })
	group.Go(func() error { return renew.Run(behind) })
	facts.Collect(ctx)
	group.Go(func() error { return facts.Run(behind) })
	err = keeper.Run(ctx)
	running := l.worker.Running()
	stop()
	if waitErr := group.Wait(); err == nil {
		err = waitErr
	}
	l.o.Logger.Info("agentd ends; running programs go on under their supervisors", "running", running)
	return err
}

// enrolAgain mends that the cluster does not know this agent with its key, if an operator
// has given it a new token. It takes a new key: after a clone the copies have the old one.
//
// Nothing is given up before the cluster has answered: as long as the old key is the
// registered one, the state machine refuses another for this id. A crash leaves the next
// key, with which the next start asks again and gets the same answer.
func (l *life) enrolAgain(ctx context.Context) error {
	token, _, err := readToken(l.config)
	switch {
	case errors.Is(err, ErrNotEnrolled):
		return errors.New("no token is given")
	case err != nil:
		return err
	case token.ID() == l.record.TokenID:
		return fmt.Errorf("token %q is the one that it has enrolled with", token.ID())
	}
	next, err := l.dir.openKey(nextKeyFile)
	if err != nil {
		return err
	}
	answer, err := l.enrolment.once(ctx, l.record, next)
	if err != nil {
		if client.AsError(err).Reason == oldKey {
			err = errors.Join(err, os.Remove(l.dir.file(nextKeyFile)))
		}
		return err
	}
	if err := l.credential.change(next, answer.GetCertificate()); err != nil {
		return err
	}
	if err := l.trust.Learn(answer.GetBundle()); err != nil {
		return err
	}
	l.record.Name, l.record.TokenID = answer.GetName(), token.ID()
	if err := l.record.store(l.dir.file(recordFile)); err != nil {
		return err
	}
	l.o.Logger.Info("enrolled again with a new key", "cluster_id", l.record.ClusterID, "agent_id", l.record.AgentID, "name", l.record.Name)
	return nil
}

// bootID is the kernel's, which changes with each boot; empty when it cannot be read.
func (l *life) bootID() string {
	read := l.o.BootID
	if read == nil {
		read = execute.BootID
	}
	id, _ := read()
	return id
}

// rebooting says whether systemd is taking the host down.
func rebooting() bool {
	for _, sign := range []string{"/run/systemd/shutdown/scheduled", "/run/nologin"} {
		if _, err := os.Stat(sign); err == nil {
			return true
		}
	}
	return false
}
