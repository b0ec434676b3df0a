package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// contents is how many different ones commands bring along, so that most are known already
	// when they are brought again.
	contents = 6
	// undoWithin is the least time for a confirmation that may be asked for, and undoMore how
	// much longer some have.
	undoWithin = 10 * time.Second
	undoMore   = 3 * time.Second
	// undoneWithin is how long it may take in the healed world until all is undone that is due:
	// a wait that has begun anew, the undo, and the pauses of an agent that tries.
	undoneWithin = time.Minute
	// undoWord is in the argv of each undo.
	undoWord = "undo"
)

// Faults of the lives in which programs are steps.
const (
	announcedReboot = "announced reboot"
	recordCrash     = "crash of agentd at a record"
	recordPowerCut  = "power cut of an agent's host at a record"
	lostStart       = "start that a journal has lost"
	spoiltCache     = "spoilt files of an agent"
	spoiltDepot     = "spoilt files of a node"
)

// stepKinds are the faults that such lives have beside those of all.
var stepKinds = []faultKind{
	{recordCrash, false, func(w *World, f Fault) ending { return w.crashAtRecord(f, false) }},
	{recordPowerCut, false, func(w *World, f Fault) ending { return w.crashAtRecord(f, true) }},
	{lostStart, false, (*World).loseStart},
	{spoiltCache, false, func(w *World, f Fault) ending {
		a := w.agentOf(f.Who)
		killed := f.To%3 == 0 && a.kill()
		w.mu.Lock()
		dir := a.dir
		w.mu.Unlock()
		effect := w.spoil(dir)
		return func() bool {
			if killed {
				w.must(a.start())
			}
			return effect
		}
	}},
	{spoiltDepot, true, func(w *World, f Fault) ending {
		n := w.nodeOf(f.Who)
		w.mu.Lock()
		dir := n.dir
		w.mu.Unlock()
		return w.once(f, w.spoil(dir))
	}},
}

// planSteps draws those that come in a life.
func planSteps(seed uint64, within time.Duration) []Fault {
	rng := rand.New(rand.NewPCG(seed, 0x73746570))
	all := make([]Fault, 3+rng.IntN(3))
	for i := range all {
		k := kindOf([]string{recordCrash, recordCrash, recordPowerCut, recordPowerCut, spoiltCache, spoiltCache, spoiltDepot}[rng.IntN(7)])
		all[i] = Fault{
			At: time.Second + time.Duration(rng.Int64N(int64(within*3/4))), Kind: k.name, Who: rng.IntN(8), To: rng.IntN(18),
			For: 200*time.Millisecond + time.Duration(rng.Int64N(int64(4*time.Second))),
		}
	}
	if rng.IntN(2) == 0 {
		all = append(all, Fault{
			At: time.Second + time.Duration(rng.Int64N(int64(within/2))), Kind: lostStart, Who: rng.IntN(8), For: time.Second + time.Duration(rng.Int64N(int64(2*time.Second))),
		})
	}
	return all
}

// crashAtRecord has agentd die at one of the next records of its journal: before it, amid it
// or after it; or the host of it loses power.
func (w *World) crashAtRecord(f Fault, power bool) ending {
	a := w.agentOf(f.Who)
	a.crashAtNextStart(f.To, func(point string) {
		w.trace.Note(a.name, "agentd dies %s", point)
		w.trouble()
		w.note(f.Kind)
		if power {
			a.Host.kill(1<<30, "reboot")
		}
		w.lives.Go(func() {
			time.Sleep(f.For)
			w.must(a.start())
			w.trouble()
		})
	})
	return nil // counted when it comes
}

// loseStart has agentd die when it has started a program, and takes from its journal what it has
// written there since it was about to, as a disk does that has told of an fsync and has not kept
// it. Nobody was told of the start, so that the attempt is delivered again; its directory is there.
func (w *World) loseStart(f Fault) ending {
	a := w.agentOf(f.Who)
	var mu sync.Mutex // guards what follows
	var file string
	var kept int64
	a.arm(func(point string) bool {
		w.mu.Lock()
		life, dir := a.life, a.dir
		w.mu.Unlock()
		switch {
		case life == nil:
			return false
		case point == beforeIntent:
			path, err := journalFile(dir)
			w.must(err)
			mu.Lock()
			defer mu.Unlock()
			file, kept = filepath.Base(path), journalBytes(dir)
			return false
		case point != afterFork:
			return false
		}
		mu.Lock()
		file, kept := file, kept
		mu.Unlock()
		if kept == 0 {
			return false // it was started before
		}
		lost := false
		if !a.endAnd(life, func(_ *agentLife, dir string) (err error) {
			lost, err = cutTo(filepath.Join(dir, "journal", file), kept)
			return err
		}) {
			return false
		}
		a.arm(nil)
		w.trouble()
		w.trace.Note(a.name, "agentd dies, and its journal has lost a start: %v", lost)
		if lost {
			w.note(f.Kind)
			w.mu.Lock()
			w.putBacks[a.name] = true
			w.mu.Unlock()
		}
		w.lives.Go(func() {
			time.Sleep(f.For)
			w.must(a.start())
			w.trouble()
			time.Sleep(time.Second)
			w.readmit(a, 3*time.Second)
		})
		return true
	})
	return nil // counted when it comes
}

// cutTo takes from a file what is behind so many bytes, and answers whether there was something.
func cutTo(path string, size int64) (bool, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && st.Size() <= size {
		return false, nil // it was written anew
	}
	return err == nil, cmp.Or(err, os.Truncate(path, size))
}

// spoil changes a byte of each content that lies in a data directory.
func (w *World) spoil(dir string) bool {
	all, err := filepath.Glob(filepath.Join(dir, "blobs", "*"))
	w.must(err)
	spoilt := 0
	for _, path := range all {
		b, err := os.ReadFile(path)
		if err != nil || len(b) == 0 {
			continue // it has been removed
		}
		b[len(b)/2] ^= 1
		// Under another name first: what has a name of its own elsewhere stays as it is.
		if os.WriteFile(path+".spoilt", b, 0o600) == nil && os.Rename(path+".spoilt", path) == nil {
			spoilt++
		}
	}
	return spoilt > 0
}

// rebootSoon starts an agent's host anew, as a program has announced.
func (w *World) rebootSoon(a *agentHost, after, takes time.Duration) {
	w.lives.Go(func() {
		time.Sleep(after)
		w.trouble()
		w.note(announcedReboot)
		a.kill()
		a.Host.kill(1<<30, "reboot")
		time.Sleep(takes)
		w.must(a.start())
		w.trouble()
	})
}

// prepareGround gives each agent a host on which package execute runs programs.
func (w *World) prepareGround(a *agentHost, number int) error {
	g, err := newGround(a.Host, filepath.Join(w.dir, a.name+".host"))
	if err != nil {
		return err
	}
	a.ground = g
	naps := rand.New(rand.NewPCG(w.seed, 0x626f6f74<<8|uint64(number)))
	g.restart = func() {
		w.mu.Lock()
		after, takes := time.Duration(naps.IntN(300))*time.Millisecond, time.Duration(200+naps.IntN(1500))*time.Millisecond
		w.mu.Unlock()
		w.rebootSoon(a, after, takes)
	}
	return nil
}

// makeContents makes what commands bring along. Nobody has uploaded it yet.
func (o *operators) makeContents() error {
	rng := rand.New(rand.NewPCG(o.w.seed, 0x626c6f62))
	for n := range contents {
		b := make([]byte, 1+rng.IntN(3000))
		if n == 0 {
			b = make([]byte, 300<<10) // in several parts
		}
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		c, err := client.BytesContent(fmt.Sprint("content-", n), b)
		if err != nil {
			return err
		}
		o.contents = append(o.contents, c)
	}
	return nil
}

// enrich makes of some commands lists of steps, and gives some an undo, files, or input.
func (o *operators) enrich(rng *rand.Rand, spec *agentplanev1.CommandSpec, c *command) {
	if o.w.trade != tradeSteps {
		return
	}
	var found []string // what each program has to find
	if len(c.agents) == 1 && rng.IntN(3) == 0 {
		found = o.bring(rng, spec, c)
	}
	programs := [][]string{slices.Concat(spec.GetArgv(), found)}
	if spec.GetStdin() != nil {
		programs[0] = append(programs[0], fmt.Sprint(sayInput, "=", spec.GetStdin().GetSha256()))
	}
	if rng.IntN(2) == 0 {
		programs[0][1] = (time.Duration(rng.IntN(500)) * time.Millisecond).String()
		for range 1 + rng.IntN(3) {
			more := slices.Concat([]string{"work", (time.Duration(rng.IntN(500)) * time.Millisecond).String(), fmt.Sprint(rng.IntN(12) / 11)}, found)
			programs = append(programs, more)
		}
	}
	if rng.IntN(8) == 0 {
		p := &programs[rng.IntN(len(programs))]
		(*p)[2] = "0"
		*p = append(*p, []string{sayReboot, sayReboot, sayNothingCame}[rng.IntN(3)])
	}
	spec.Argv = programs[0]
	if len(programs) > 1 {
		spec.Argv = nil
		for n, argv := range programs {
			spec.Steps = append(spec.Steps, &agentplanev1.Step{Name: fmt.Sprint("step-", n+1), Argv: argv})
		}
	}
	if rng.IntN(4) == 0 {
		spec.Undo = &agentplanev1.UndoSpec{
			Argv: []string{"work", (time.Duration(rng.IntN(1500)) * time.Millisecond).String(), fmt.Sprint(rng.IntN(6) / 5), undoWord}, Within: int64(undoWithin) + rng.Int64N(int64(undoMore)),
			By: []agentplanev1.ConfirmBy{agentplanev1.ConfirmBy_CONFIRM_BY_OPERATOR, agentplanev1.ConfirmBy_CONFIRM_BY_OPERATOR, agentplanev1.ConfirmBy_CONFIRM_BY_CONTACT}[rng.IntN(3)],
		}
		c.confirms = spec.Undo.By == agentplanev1.ConfirmBy_CONFIRM_BY_OPERATOR && rng.IntN(3) > 0
	}
}

// bring gives a command for one agent files, and perhaps input.
func (o *operators) bring(rng *rand.Rand, spec *agentplanev1.CommandSpec, c *command) (found []string) {
	i := slices.IndexFunc(o.w.agents, func(a *agentHost) bool { return a.name == c.agents[0] })
	for n := range 1 + rng.IntN(2) {
		x := o.contents[rng.IntN(len(o.contents))]
		path := filepath.Join(o.w.agents[i].ground.etc, fmt.Sprintf("%016x-%d", rng.Uint64(), n))
		if rng.IntN(16) == 0 {
			path = filepath.Join(path, "no-such-directory", "x")
		}
		spec.Files = append(spec.Files, &agentplanev1.File{Path: path, Content: x.Ref.Proto()})
		found = append(found, fmt.Sprint(sayFile, "=", path, "=", x.Ref.Sum))
		c.contents = append(c.contents, x)
	}
	if rng.IntN(2) == 0 {
		x := o.contents[rng.IntN(len(o.contents))]
		spec.Stdin = x.Ref.Proto()
		c.contents = append(c.contents, x)
	}
	return found
}

// plainly takes everything from a spec that is not needed to run a program on everybody.
func plainly(spec *agentplanev1.CommandSpec) {
	spec.Selector, spec.Agents, spec.Argv, spec.Rollout = "all", nil, []string{"work", "10ms", "0"}, nil
	spec.Locks, spec.Exclusive, spec.FleetLocks, spec.Template, spec.Secrets = nil, false, nil, nil, nil
	spec.Steps, spec.Undo, spec.Files, spec.Stdin = nil, nil, nil, nil
}

// upload brings what a command brings along to the cluster, which lacks it.
func (o *operators) upload(ctx context.Context, c *client.Client, cmd *command) error {
	for _, x := range cmd.contents {
		if err := c.Upload(ctx, x, nil); err != nil {
			return err
		}
	}
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	o.w.accepted["uploads"]++
	return nil
}

// confirm confirms again and again what waits for that and is to be confirmed, until ctx ends.
func (o *operators) confirm(ctx context.Context) {
	d := o.desk(0x6b656570)
	defer d.close()
	for ctx.Err() == nil {
		time.Sleep(time.Duration(50+d.rng.IntN(500)) * time.Millisecond)
		cmd := o.toConfirm(d.rng)
		if cmd == nil {
			continue
		}
		d.turn(ctx, 1, func(c *client.Client) {
			one, cancel := context.WithTimeout(ctx, time.Duration(500+d.rng.IntN(4000))*time.Millisecond)
			defer cancel()
			o.confirmOne(one, c, cmd)
		})
	}
}

// toConfirm picks a command of which something waits, as some node has it.
func (o *operators) toConfirm(rng *rand.Rand) *command {
	v := o.w.newest()
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []*command
	for _, c := range o.commands {
		if c.confirms && c.submit.acked+c.submit.unknown > 0 {
			for i := range v.Invocations(c.id) {
				if i.GetUndo().GetPhase() == raftlogv1.UndoPhase_UNDO_PHASE_ARMED && i.GetUndo().GetConfirmIndex() == 0 {
					all = append(all, c)
					break
				}
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[rng.IntN(len(all))]
}

// confirmOne confirms what is seen to wait.
func (o *operators) confirmOne(ctx context.Context, c *client.Client, cmd *command) bool {
	r, err := agentplanev1.NewCommandServiceClient(c).GetCommand(ctx, &agentplanev1.GetCommandRequest{Id: cmd.id, WithInvocations: true})
	if err != nil {
		o.heed(err)
		return false
	}
	upTo, waiting := uint64(0), []string(nil)
	for _, i := range r.GetCommand().GetInvocations() {
		if u := i.GetUndo(); u.GetPhase() == agentplanev1.UndoPhase_UNDO_PHASE_ARMED && u.GetConfirmedIndex() == 0 {
			upTo = max(upTo, u.GetArmedIndex())
			waiting = append(waiting, i.GetId())
		}
	}
	if upTo == 0 {
		return false
	}
	op := o.asks(confirmation, cmd)
	_, err = c.Confirm(ctx, cmd.id, upTo, nil)
	o.note(&cmd.confirmed, op, 0, cmd, err)
	if err != nil {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	cmd.waited = append(cmd.waited, waiting...)
	return true
}

// rests waits until hosts have run nothing, and were not started anew, for as long as a reboot
// is waited for: attempts that the cluster has given up may go on, and one of their steps may
// announce a reboot.
func (w *World) rests(ctx context.Context) {
	boots := func() (n int, busy bool) {
		for _, a := range w.agents {
			a.ground.mu.Lock()
			n += a.ground.boot
			a.ground.mu.Unlock()
			busy = busy || slices.ContainsFunc(a.Starts(), func(s Start) bool { return s.End.IsZero() })
		}
		return n, busy
	}
	last, _ := boots()
	for since := time.Now(); time.Since(since) < rebootWait; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
		if n, busy := boots(); busy || n != last {
			last, since = n, time.Now()
		}
	}
}

// vows has three agents of a world that is well run programs with an undo: one that is
// confirmed at once, one that confirms itself by contact, and one that nobody confirms. With
// nothing in the way each comes out as it is promised.
func (w *World) vows(ctx context.Context) error {
	if w.trade != tradeSteps {
		return nil
	}
	w.rests(ctx)
	o := w.operators
	rng := rand.New(rand.NewPCG(w.seed, 0x766f77))
	all := make([]*command, 3)
	for n := range all {
		all[n] = o.vow(rng, w.agents[rng.IntN(len(w.agents))].name, n)
		for o.submit(ctx, o.clients[0], all[n]); all[n].submit.acked == 0; o.submit(ctx, o.clients[0], all[n]) {
			if ctx.Err() != nil {
				return errors.New("no command with an undo is taken")
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
	kept := false
	for {
		open := 0
		for n, c := range all {
			for i := range w.newest().Invocations(c.id) {
				if n == 0 && i.GetUndo().GetArmedIndex() != 0 && !kept {
					kept = o.confirmOne(ctx, o.clients[0], c)
				}
				if i.GetState() < raftlogv1.AttemptState_ATTEMPT_STATE_LOST {
					open++
				}
			}
		}
		if open == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return errors.New("a command with an undo does not end")
		case <-time.After(50 * time.Millisecond):
		}
	}
	for n, c := range all {
		for i := range w.newest().Invocations(c.id) {
			want, phase := raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, raftlogv1.UndoPhase_UNDO_PHASE_CONFIRMED
			if n == 2 {
				want, phase = raftlogv1.AttemptState_ATTEMPT_STATE_FAILED, raftlogv1.UndoPhase_UNDO_PHASE_DONE
			}
			if i.GetState() != want || i.GetUndo().GetPhase() != phase {
				w.fault("in a world that is well %s, which was %s, is %v: %v", i.GetId(), []string{"confirmed", "to be confirmed by contact", "not confirmed"}[n], i.GetState(), i)
			}
		}
	}
	return nil
}

// vow is the n-th of them, for one agent.
func (o *operators) vow(rng *rand.Rand, agent string, n int) *command {
	c := o.compose(rng)
	spec, env := &agentplanev1.CommandSpec{}, &agentplanev1.Envelope{}
	_ = proto.Unmarshal(c.envelope, env)
	_ = proto.Unmarshal(env.GetSpec(), spec)
	plainly(spec)
	spec.Selector, spec.Agents = "", []string{agent}
	spec.NotAfter, spec.RunTimeout, spec.QueueOffline = o.w.newest().Now()+int64(time.Minute), int64(5*time.Second), true
	spec.Undo = &agentplanev1.UndoSpec{Argv: []string{"work", "10ms", "0", undoWord}, Within: int64(undoWithin), By: agentplanev1.ConfirmBy_CONFIRM_BY_OPERATOR}
	if n == 1 {
		spec.Undo.By = agentplanev1.ConfirmBy_CONFIRM_BY_CONTACT
	}
	env.Spec, _ = proto.Marshal(spec)
	o.mu.Lock()
	defer o.mu.Unlock()
	c.envelope, _ = proto.Marshal(env)
	c.agents, c.all, c.made, c.waves, c.confirms, c.contents = []string{agent}, false, false, false, false, nil
	return c
}
