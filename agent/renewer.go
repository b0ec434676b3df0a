package agent

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

const (
	renewLook    = 5 * time.Minute // how often the clock is looked at: it may be set
	renewRetry   = 10 * time.Second
	renewRetries = 10 * time.Minute // the longest wait between two failures
	renewTimeout = 30 * time.Second
	// A certificate that a node does not like is renewed when it is older than the
	// patience, which doubles from renewForced to maxForced with each renewal for that
	// reason: nodes may be replaced one after the other, each with the issuer of what the
	// last one gave; and one that hands out old certificates is not asked in a loop.
	renewForced, maxForced = 2 * time.Second, time.Minute
)

// renewer keeps the certificate fresh: at half its life, and whenever a node does not
// accept it.
type renewer struct {
	credential *credential
	trust      *trust
	dial       client.Dial
	clock      identity.Clock
	log        hclog.Logger
	kick       chan struct{} // holds one: look now

	turn chan struct{} // holds one during a renewal, which may take as long as renewTimeout

	mu       sync.Mutex    // guards what follows; never held while waiting
	last     time.Time     // of the last renewal that succeeded
	failed   time.Time     // when one failed last
	patience time.Duration // until the next forced one
}

// newRenewer makes one that goes by a clock, which is not nil.
func newRenewer(c *credential, t *trust, dial client.Dial, clock identity.Clock, log hclog.Logger) *renewer {
	return &renewer{credential: c, trust: t, dial: dial, clock: clock, log: log, kick: make(chan struct{}, 1), turn: make(chan struct{}, 1)}
}

// Run renews until ctx ends, and returns nil.
func (r *renewer) Run(ctx context.Context) error {
	pause := renewRetry
	for forced := false; ; {
		wait := r.credential.due(r.clock())
		if wait <= 0 || forced {
			if err := r.renew(ctx); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				r.mu.Lock()
				r.failed = time.Now()
				r.mu.Unlock()
				log := r.log.Warn
				if unregistered(err) {
					log = r.log.Debug // the session says it, with what is to be done
				}
				log("certificate not renewed", "expires", r.credential.leaf().NotAfter.UTC().Format(time.RFC3339), "err", err)
				wait = pause/2 + rand.N(pause/2+1)
				pause = min(2*pause, renewRetries)
			} else {
				pause, wait, forced = renewRetry, max(r.credential.due(r.clock()), maxForced), false
			}
		}
		t := time.NewTimer(min(wait, renewLook))
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-r.kick:
			forced = true
		case <-t.C:
		}
		t.Stop()
	}
}

// distrusted takes note that a node did not accept the certificate. It waits for no
// renewal that is under way: another node may accept the certificate as it is.
func (r *renewer) distrusted() {
	r.mu.Lock()
	again := time.Since(r.last) >= r.patience && time.Since(r.failed) >= renewForced
	r.mu.Unlock()
	if !again {
		return
	}
	select {
	case r.kick <- struct{}{}:
	default: // told already
	}
}

// renewed notes that the certificate is a new one.
func (r *renewer) renewed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.patience = nextPatience(r.patience, time.Since(r.last))
	r.last = time.Now()
}

// nextPatience is how long a certificate must be liked that follows one which was
// renewed after so long. It is pure, so a table tests it.
func nextPatience(patience, after time.Duration) time.Duration {
	if after >= maxForced {
		return renewForced
	}
	return min(max(2*patience, renewForced), maxForced)
}

// ready renews an expired certificate, which is good for nothing else.
func (r *renewer) ready(ctx context.Context) error {
	if !r.credential.expired(r.clock()) {
		return nil
	}
	return r.renew(ctx)
}

// since is how long ago the certificate was renewed.
func (r *renewer) since() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Since(r.last)
}

// renew renews once, one caller at a time.
func (r *renewer) renew(ctx context.Context) error {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if r.since() < time.Second && !r.credential.expired(r.clock()) {
		return nil // somebody else has just done it
	}
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	c, err := client.New(client.Options{
		Addresses: r.trust.addresses(), Bundle: r.trust.without(), Certificate: r.credential.certificate, Dial: r.dial, Clock: r.clock,
	})
	if err != nil {
		return err
	}
	defer c.Close()
	fresh, err := c.Renew(ctx, r.credential.current(), r.credential.id)
	if err != nil {
		return err
	}
	if err := r.credential.replace(fresh.Certificate); err != nil {
		return err
	}
	r.renewed()
	r.log.Info("certificate renewed", "expires", r.credential.leaf().NotAfter.UTC().Format(time.RFC3339))
	return r.trust.Learn(fresh.Bundle)
}
