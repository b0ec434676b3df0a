package gossip

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"time"
)

// maxRejoin bounds the addresses that one attempt tries, one after the other.
const maxRejoin = 8

// rejoiner joins peers that are missing. One goroutine runs it.
type rejoiner struct {
	pool    *Pool
	backoff time.Duration
	seen    uint64          // version of the table
	reached map[string]bool // addresses that answered since the last death: names, or behind translation
}

func newRejoiner(p *Pool) *rejoiner {
	return &rejoiner{pool: p, backoff: p.timing.RejoinMin, reached: make(map[string]bool)}
}

func (r *rejoiner) run(ctx context.Context) {
	t := r.pool.timing
	timer := time.NewTimer(0) // at once: the peers may be there
	defer timer.Stop()
	next := time.Now()
	wait := func(d time.Duration) {
		d = jitter(d)
		timer.Reset(d)
		next = time.Now().Add(d)
	}
	for {
		members, version, changed := r.pool.table.since(r.seen)
		r.seen = version
		if slices.ContainsFunc(members, func(m Member) bool { return m.State == StateDead }) {
			// Whoever died may be back soon, or it is we who were cut off.
			clear(r.reached)
			r.backoff = t.RejoinMin
			if time.Until(next) > r.backoff { // deaths in a row must not put it off for ever
				wait(r.backoff)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
			continue
		case <-timer.C:
		}
		if r.pool.left.Load() {
			return
		}
		wait(r.attempt(ctx))
	}
}

// attempt joins some of the missing and returns how long to wait.
func (r *rejoiner) attempt(ctx context.Context) time.Duration {
	t := r.pool.timing
	missing := r.missing()
	if len(missing) == 0 {
		r.backoff = t.RejoinMin
		return t.RejoinMax
	}
	rand.Shuffle(len(missing), func(i, j int) { missing[i], missing[j] = missing[j], missing[i] })
	for _, addr := range missing[:min(len(missing), maxRejoin)] {
		if _, err := r.pool.Join(ctx, []string{addr}); err != nil {
			switch {
			case ctx.Err() != nil:
			case errors.Is(err, ErrWrongKey): // a rotation has passed this node by
				r.pool.logger.Warn("peer cannot be joined", "address", addr, "err", err)
			default:
				r.pool.logger.Debug("peer is missing", "address", addr, "err", err)
			}
			continue
		}
		r.reached[addr] = true
	}
	wait := r.backoff
	r.backoff = min(2*r.backoff, t.RejoinMax)
	return wait
}

// missing returns the known addresses at which no living member is.
func (r *rejoiner) missing() []string {
	here := map[string]bool{r.pool.self.String(): true}
	var known []string
	for _, m := range r.pool.Members() {
		if m.State.Gone() {
			if m.State == StateDead {
				known = append(known, m.Addr)
				if addr, ok := r.pool.delegate.movedTo(m.ID); ok {
					known = append(known, addr)
				}
			}
			continue
		}
		here[m.Addr] = true
	}
	if r.pool.opts.Peers != nil {
		known = append(known, r.pool.opts.Peers()...)
	}
	var missing []string
	for _, addr := range known {
		full := addr
		if host, port, err := splitAddr(addr, DefaultPort); err == nil {
			full = net.JoinHostPort(host, strconv.Itoa(port))
		}
		if !here[full] && !r.reached[addr] && !slices.Contains(missing, addr) {
			missing = append(missing, addr)
		}
	}
	return missing
}

// jitter returns a random wait between half of d and d, so that nodes that lost
// each other at one moment do not all call at the next.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }
