package agent

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/agentplane/agentplane/proto/client"
)

const (
	renewLook    = 5 * time.Minute // how often the clock is looked at: it may be set
	renewRetry   = 10 * time.Second
	renewRetries = 10 * time.Minute // the longest wait between two failures
	renewTimeout = 30 * time.Second
	// renewForced is how old a certificate must be to be renewed because a node did not
	// like it.
	renewForced = time.Minute
)

// renewer keeps the certificate fresh: at half its life, and whenever a node does not
// accept it.
type renewer struct {
	credential *credential
	trust      *trust
	dial       client.Dial
	log        hclog.Logger
	kick       chan struct{} // holds one: look now

	mu   sync.Mutex // one renewal at a time
	last time.Time
}

func newRenewer(c *credential, t *trust, dial client.Dial, log hclog.Logger) *renewer {
	return &renewer{credential: c, trust: t, dial: dial, log: log, kick: make(chan struct{}, 1)}
}

// Run renews until ctx ends, and returns nil.
func (r *renewer) Run(ctx context.Context) error {
	pause := renewRetry
	for forced := false; ; {
		wait := r.credential.due(time.Now())
		if wait <= 0 || forced {
			if err := r.renew(ctx); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				log := r.log.Warn
				if unregistered(err) {
					log = r.log.Debug // the session says it, with what is to be done
				}
				log("certificate not renewed", "expires", r.credential.leaf().NotAfter.UTC().Format(time.RFC3339), "err", err)
				wait = pause/2 + rand.N(pause/2+1)
				pause = min(2*pause, renewRetries)
			} else {
				// A node that hands out old certificates is not asked in a loop.
				pause, wait, forced = renewRetry, max(r.credential.due(time.Now()), renewForced), false
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

// distrusted takes note that a node did not accept the certificate.
func (r *renewer) distrusted() {
	r.mu.Lock()
	fresh := time.Since(r.last) < renewForced
	r.mu.Unlock()
	if fresh {
		return
	}
	select {
	case r.kick <- struct{}{}:
	default: // told already
	}
}

// ready renews an expired certificate, which is good for nothing else.
func (r *renewer) ready(ctx context.Context) error {
	if !r.credential.expired(time.Now()) {
		return nil
	}
	return r.renew(ctx)
}

func (r *renewer) renew(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.last) < time.Second && !r.credential.expired(time.Now()) {
		return nil // somebody else has just done it
	}
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	c, err := client.New(client.Options{
		Addresses: r.trust.addresses(), Bundle: r.trust.without(), Certificate: r.credential.certificate, Dial: r.dial,
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
	r.last = time.Now()
	r.log.Info("certificate renewed", "expires", r.credential.leaf().NotAfter.UTC().Format(time.RFC3339))
	return r.trust.Learn(fresh.Bundle)
}
