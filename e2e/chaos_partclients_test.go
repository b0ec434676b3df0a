package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// partsClients submit commands in parts, through all nodes, beside those that submit plain ones.
const partsClients = 2

// begin starts the clients; they end with the stream.
func (p *parts) begin(seed uint64) {
	for n := range partsClients {
		rng := rand.New(rand.NewPCG(seed, uint64(n)+300))
		p.s.working.Go(func() { p.submitting(rng) })
	}
	p.s.working.Go(func() { p.agentctl(rand.New(rand.NewPCG(seed, 400))) })
	p.s.working.Go(func() { p.confirming(rand.New(rand.NewPCG(seed, 500))) })
}

func (p *parts) submitting(rng *rand.Rand) {
	p.s.through(rng, 200*time.Millisecond, 600*time.Millisecond, func(c *client.Client) { p.submit(c, rng) })
}

// submit submits one, and may cancel it.
func (p *parts) submit(c *client.Client, rng *rand.Rand) {
	a, l, err := p.make(rng)
	if err != nil {
		p.s.oddity("make a command: %v", err)
		return
	}
	cancel := rng.IntN(12) == 0
	sub := p.send(c, a, l, !cancel)
	if sub.outcome == refused || !cancel {
		return
	}
	p.s.pause(time.Duration(rng.IntN(4000)) * time.Millisecond) // what the cancel meets is the test's input
	p.mu.Lock()
	a.canceled = true
	p.mu.Unlock()
	// Whether it is canceled shows in the end; a lost answer has no meaning here.
	_, _ = agentplanev1.NewCommandServiceClient(c).CancelCommand(context.Background(), &agentplanev1.CancelCommandRequest{Id: a.id})
}

// make makes a command, of which every third one brings something along.
func (p *parts) make(rng *rand.Rand) (a *asked, l luggage, err error) {
	if a, err = p.compose(rng); err == nil && a.agent != "" && rng.IntN(3) == 0 {
		l, err = p.bring(rng, a)
	}
	return a, l, err
}

// send submits a command, for which it uploads what the cluster lacks, and notes the outcome.
func (p *parts) send(c *client.Client, a *asked, l luggage, plain bool) submission {
	sub := submission{id: a.id, began: time.Now(), plain: plain && a.good()}
	p.remember(a)
	envelope, err := envelopeOf(p.spec(a, l, sub.began))
	if err != nil {
		p.s.oddity("marshal a command: %v", err)
		return sub
	}
	commands := agentplanev1.NewCommandServiceClient(c)
	for range 3 { // what nobody uses any more may be thrown away meanwhile
		sub.outcome = acknowledged // unless this try says otherwise
		if _, err = p.s.try(commands, envelope, time.Minute, &sub); err == nil || client.AsError(err).Reason != "no_blob" {
			break
		}
		if err = p.upload(c, l); err != nil {
			sub.problem = err.Error() // it stays refused
			break
		}
	}
	p.s.note(sub)
	return sub
}

func (p *parts) remember(a *asked) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked[a.id] = a
}

func (p *parts) upload(c *client.Client, l luggage) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, x := range l.contents() {
		if err := c.Upload(ctx, x, nil); err != nil {
			return err
		}
	}
	return nil
}

// agentctl submits as people do: steps and undos are lines for a shell, contents are files.
func (p *parts) agentctl(rng *rand.Rand) {
	for p.s.pause(time.Duration(1000+rng.IntN(2000)) * time.Millisecond) {
		a, l, err := p.make(rng)
		if err != nil {
			p.s.oddity("make a command: %v", err)
			return
		}
		on := p.s.f.everyone()
		if a.agent != "" {
			on = fmt.Sprintf("name == %q", a.agent)
		}
		args := []string{
			"run", "--detach", "--id", a.id, "--addr", p.s.f.addresses[rng.IntN(len(p.s.f.addresses))],
			"--on", on, "--queue", "5m", "--timeout", "1m",
		}
		if a.steps[0].long && a.steps[0].name == "" {
			args[len(args)-1] = partTimeout.String()
		}
		packed, err := p.packed(a, l)
		if err != nil {
			p.s.oddity("keep a content: %v", err)
			return
		}
		sub := submission{id: a.id, began: time.Now(), plain: a.good()}
		p.remember(a)
		p.s.noteCtl(sub, p.s.f.Ctl(context.Background(), append(append(args, packed...), p.flags(a)...)...))
	}
}

// confirming confirms again and again what is seen to wait for that, until the stream ends.
func (p *parts) confirming(rng *rand.Rand) {
	p.s.through(rng, 50*time.Millisecond, 300*time.Millisecond, func(c *client.Client) {
		if a := p.toConfirm(rng); a != nil {
			p.confirm(c, a)
		}
	})
}

// toConfirm picks a command that is to be confirmed and may not be over.
func (p *parts) toConfirm(rng *rand.Rand) *asked {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []*asked
	for _, a := range p.asked {
		if a.keeps && !a.settled {
			all = append(all, a)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[rng.IntN(len(all))]
}

// confirm confirms what of a command is seen to wait, and answers whether it stands confirmed.
func (p *parts) confirm(c *client.Client, a *asked) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r, err := agentplanev1.NewCommandServiceClient(c).GetCommand(ctx, &agentplanev1.GetCommandRequest{Id: a.id, WithInvocations: true})
	if err != nil {
		return false // it is not submitted yet, or nobody answers
	}
	upTo, stands, said := uint64(0), false, confirmation{}
	for _, i := range r.GetCommand().GetInvocations() {
		u := i.GetUndo()
		if u.GetPhase() == agentplanev1.UndoPhase_UNDO_PHASE_ARMED && u.GetConfirmedIndex() == 0 {
			upTo = max(upTo, u.GetArmedIndex())
			said.waited = append(said.waited, i.GetId())
		}
		stands = stands || u.GetConfirmedIndex() != 0
	}
	over := r.GetCommand().GetState() == agentplanev1.CommandState_COMMAND_STATE_DONE
	if upTo > 0 {
		if _, err := c.Confirm(ctx, a.id, upTo, nil); err != nil {
			if said.outcome = refused; client.AsError(err).OutcomeUnknown {
				said.outcome = unknown
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if upTo > 0 {
		a.confirms = append(a.confirms, said)
	}
	a.settled = a.settled || over
	return stands || upTo > 0 && said.outcome == acknowledged
}

const (
	// vowed is on how many agents it is tried in the end that undos do as they are told.
	vowed = 4
	// vowWithin is more than a confirmation takes where nothing is broken.
	vowWithin = time.Minute
)

// vows has some agents of a cluster that is whole run programs with an undo: one that an
// operator confirms, one that contact does, and one that nobody confirms.
func (p *parts) vows(t *testing.T, c *client.Client, rng *rand.Rand) {
	t.Helper()
	for _, n := range rng.Perm(len(p.s.f.agents))[:min(vowed, len(p.s.f.agents))] {
		for kind := range 3 {
			var a *asked
			await(t, time.Minute, "a command with an undo is taken", func() error {
				id, err := uuid.NewV7()
				if err != nil {
					return err
				}
				a = &asked{
					id: id.String(), agent: p.s.f.agents[n].Name, steps: []askedPart{{}}, undo: &askedPart{},
					within: vowWithin, keeps: kind == 0, contact: kind == 1, vow: true,
				}
				if kind == 2 {
					a.within = leastWithin
				}
				if sub := p.send(c, a, luggage{}, false); sub.outcome != acknowledged {
					return errors.New(sub.problem)
				}
				return nil
			})
			if !a.keeps {
				continue
			}
			await(t, vowWithin, "a command is confirmed", func() error {
				if !p.confirm(c, a) {
					return errors.New("it does not wait, or the confirmation is not taken")
				}
				return nil
			})
		}
	}
}
