package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// Things break for as long as the seed says: many faults in a short time come over
	// each other, and few in a long one meet a world that has settled.
	minBreaking, maxBreaking = 10 * time.Second, 25 * time.Second
	// healing bounds how long the healed world may take until everything is live.
	healing = 6 * time.Minute
	// formTakes is how long it takes at the least until operators begin to work.
	formTakes = 2 * time.Second
	// lingering bounds what outlives its owner's Close: probes of gossip, calls.
	lingering = time.Minute
	// A life with fewer faults that took effect, or fewer acknowledged writes, is void.
	minFaults, minWrites = 3, 50
	// Likewise one that is about steps with fewer of them behind the first.
	minSteps = 3
)

// Outcome is what came of a life.
type Outcome struct {
	Seed   uint64
	Faults []Fault  // that the seed draws
	Chosen []int    // those of them that were lived
	Red    []string // what must not be; empty is good
	Void   string   // why the life proves nothing
	Writes int      // acknowledged
	Reads  int
	Shown  int // messages of watches
	Starts int
	// Effects are the faults that took effect, Ends what is worth counting.
	Effects, Ends map[string]int
	Virtual       time.Duration // how long it lasted
	Healed        time.Duration // how long it took to be live again
	Trace         *Trace
}

// draw draws for how long things break, and how; rng is for what is drawn then.
func draw(seed uint64) (rng *rand.Rand, breaking time.Duration, faults []Fault) {
	rng = rand.New(rand.NewPCG(seed, 0x776f726c64))
	breaking = minBreaking + time.Duration(rng.Int64N(int64(maxBreaking-minBreaking)))
	faults = plan(rng, breaking)
	if tradeOf(seed) == tradeSteps {
		faults = append(faults, planSteps(seed, breaking)...)
	}
	return rng, breaking, faults
}

// Draw is the faults of a seed.
func Draw(seed uint64) []Fault {
	_, _, faults := draw(seed)
	return faults
}

// Live lives one life in the directory, in a bubble, with the chosen ones of the faults that the
// seed draws.
func Live(seed uint64, dir string, chosen []int) (out *Outcome) {
	rng, breaking, drawn := draw(seed)
	var faults []Fault
	for _, i := range chosen {
		faults = append(faults, drawn[i])
	}
	time.Sleep(time.Minute - minuteEnds(seed, breaking)) // a bubble begins with a minute
	w := newWorld(seed, dir, rng)
	w.breaking = breaking
	out = &Outcome{Seed: seed, Faults: drawn, Chosen: chosen, Trace: w.trace, Effects: w.effects, Ends: w.accepted}
	began := time.Now()
	if err := w.live(faults, out); err != nil {
		w.fault("%v", err)
	}
	w.close()
	// What waits for a timer may still end; the bubble judges what does not.
	time.Sleep(lingering)
	out.Virtual = time.Since(began) - lingering
	out.Red = w.red
	if o := w.operators; o != nil {
		out.Writes, out.Reads, out.Shown = o.writes, o.reads, w.watches.messages
	}
	w.accepted["packets overtaken"] += int(w.gossip.Overtaken())
	for _, a := range w.agents {
		out.Starts += len(a.Starts())
	}
	effects := 0
	for kind, n := range w.effects {
		if kind != announcedReboot { // nothing that breaks
			effects += n
		}
	}
	switch {
	case effects < minFaults:
		out.Void = fmt.Sprintf("%d faults took effect, want %d", effects, minFaults)
	case out.Writes < minWrites:
		out.Void = fmt.Sprintf("%d writes were acknowledged, want %d", out.Writes, minWrites)
	case w.trade == tradeSteps && w.accepted["further steps"] < minSteps:
		out.Void = fmt.Sprintf("%d further steps were started, want %d", w.accepted["further steps"], minSteps)
	case w.accepted[unjudged] > 0:
		out.Void = "porcupine came to no end of a history"
	}
	return out
}

func (w *World) live(faults []Fault, out *Outcome) error {
	forming, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := w.form(forming); err != nil {
		return fmt.Errorf("form the cluster: %w", err)
	}
	w.trace.Note("world", "%d nodes and %d agents are there; profile %s", len(w.nodes), len(w.agents), w.profile)
	working, stop := context.WithTimeout(context.Background(), w.breaking)
	defer stop()
	suffered := make(chan struct{})
	w.lives.Go(func() {
		defer close(suffered)
		w.suffer(faults)
	})
	w.lives.Go(func() { w.sample(working) })
	w.lives.Go(func() { w.operators.keep(w.ctx) })
	w.lives.Go(func() { w.operators.watchAgents(w.ctx) })
	w.lives.Go(func() { w.operators.watchCommands(working) })
	w.operators.work(working)
	<-suffered

	w.trace.Note("world", "is healed")
	w.trouble()
	if err := w.heal(); err != nil {
		return err
	}
	if err := w.upgrades(); err != nil {
		return err
	}
	healed := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), healing)
	defer cancel()
	if err := w.heals(ctx); err != nil {
		return fmt.Errorf("the healed world is not live after %v: %w", time.Since(healed), err)
	}
	out.Healed = time.Since(healed)
	w.undoes()
	if err := w.keepsOutput(ctx); err != nil {
		return fmt.Errorf("the healed world does not keep output: %w", err)
	}
	if err := w.agree(ctx); err != nil {
		return fmt.Errorf("the healed world does not agree: %w", err)
	}
	w.judge()
	if err := w.purges(); err != nil {
		return fmt.Errorf("the healed world does not purge: %w", err)
	}
	return nil
}
