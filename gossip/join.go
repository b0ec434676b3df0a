package gossip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Join exchanges members with the nodes at addrs (host or host:port; a host name
// stands for all its addresses) and returns how many answered. The error is nil
// when one did. Joining again is harmless.
func (p *Pool) Join(ctx context.Context, addrs []string) (int, error) {
	reached := 0
	var errs []error
	for _, addr := range addrs {
		n, err := p.joinAddr(ctx, addr)
		reached += n
		if err != nil {
			errs = append(errs, fmt.Errorf("join %q: %w", addr, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	if reached == 0 {
		return 0, errors.Join(errs...)
	}
	return reached, p.look()
}

func (p *Pool) joinAddr(ctx context.Context, addr string) (int, error) {
	if p.life.Err() != nil || p.left.Load() {
		return 0, ErrClosed
	}
	host, port, err := splitAddr(addr, DefaultPort)
	if err != nil {
		return 0, err
	}
	ips, err := lookup(ctx, host)
	if err != nil {
		return 0, err
	}
	reached := 0
	var errs []error
	for _, ip := range ips {
		to := netip.AddrPortFrom(ip, uint16(port))
		if to == p.self {
			continue
		}
		if p.self.Addr().IsLoopback() && !ip.IsLoopback() {
			errs = append(errs, fmt.Errorf("this node advertises %s, where %s cannot reach it; advertise an address of this host", p.self, to))
			continue
		}
		if err := p.exchange(ctx, to); err != nil {
			errs = append(errs, err)
			continue
		}
		reached++
	}
	return reached, errors.Join(errs...)
}

// exchange does one push/pull with the node at to. It ends with ctx.
func (p *Pool) exchange(ctx context.Context, to netip.AddrPort) error {
	tag, untag := p.guard.tagJoin(ctx)
	defer untag()
	_, err := p.list.Join([]string{tag + "/" + to.String()})
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err = explain(err, to, p.opts.Label)
	if errors.Is(err, ErrWrongKey) {
		p.wrongKeys.Add(1)
	}
	return err
}

// explain makes memberlist's error, whose causes are lost in text, readable.
func explain(err error, to netip.AddrPort, label string) error {
	text := strings.TrimPrefix(plain(err).Error(), "failed to join "+to.String()+": ")
	switch {
	case strings.Contains(text, "could decrypt the message"):
		return ErrWrongKey
	case text == "EOF", strings.Contains(text, "closed pipe"), strings.Contains(text, "reset by peer"), strings.Contains(text, "broken pipe"):
		return fmt.Errorf("%s hung up without an answer: most likely it is of another cluster than %q (%s)", to, label, text)
	}
	return errors.New(text)
}

// plain takes a single error out of memberlist's list of many lines.
func plain(err error) error {
	var many interface{ WrappedErrors() []error }
	if errors.As(err, &many) && len(many.WrappedErrors()) == 1 {
		return many.WrappedErrors()[0]
	}
	return err
}

// maxGoodbyes bounds the members that are told of a departure over a stream.
const maxGoodbyes = 5

// Leave announces that this node departs, so that the others see it left, not
// dead. It ends by ctx or the leave timeout; an error says that perhaps nobody
// heard it. The pool answers until Close but joins nobody any more; to come back
// is to open a new one. Leaving again is harmless.
func (p *Pool) Leave(ctx context.Context) error {
	p.own <- struct{}{}
	defer func() { <-p.own }()
	if p.life.Err() != nil {
		return fmt.Errorf("leave gossip pool: %w", ErrClosed)
	}
	if p.left.Swap(true) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.timing.LeaveTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	gossiped := p.list.Leave(max(time.Until(deadline)/2, time.Millisecond))
	if p.goodbye(ctx) {
		gossiped = nil
	}
	if err := p.look(); err != nil {
		p.logger.Debug("the view of the members is stale", "err", err)
	}
	if gossiped != nil {
		return fmt.Errorf("leave gossip pool: no member confirmed it: %w", gossiped)
	}
	return nil
}

// goodbye tells some members over streams, all at once, and says whether one
// took it.
func (p *Pool) goodbye(ctx context.Context) bool {
	told := make(chan bool, maxGoodbyes)
	var wg sync.WaitGroup
	n := 0
	for _, m := range p.Members() {
		to, err := netip.ParseAddrPort(m.Addr)
		if m.ID == p.opts.NodeID || m.State.Gone() || err != nil || n == maxGoodbyes {
			continue
		}
		n++
		wg.Go(func() { told <- p.exchange(ctx, to) == nil })
	}
	wg.Wait()
	close(told)
	heard := false
	for ok := range told {
		heard = heard || ok
	}
	return heard
}
