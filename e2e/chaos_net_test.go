package e2e

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// network joins hosts by a bridge: each is a network namespace with one address. It
// lives in the namespace of the test, and ends with it if not before.
type network struct {
	hosts map[string]*netHost
	rules int
}

type netHost struct{ name, address string }

const bridge = "br-chaos"

func newNetwork() (*network, error) {
	n := &network{hosts: make(map[string]*netHost)}
	return n, errors.Join(
		ip("link", "set", "lo", "up"),
		ip("link", "add", bridge, "type", "bridge"),
		ip("addr", "add", "10.99.255.1/16", "dev", bridge),
		ip("link", "set", bridge, "up"),
	)
}

func ip(args ...string) error {
	_, err := command("ip", args...)
	return err
}

// host adds one.
func (n *network) host(name, address string) (*netHost, error) {
	h := &netHost{name, address}
	n.hosts[name] = h
	for _, args := range [][]string{
		{"netns", "add", name},
		{"link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name},
		{"link", "set", name, "master", bridge, "up"},
		{"-n", name, "link", "set", "lo", "up"},
		{"-n", name, "addr", "add", address + "/16", "dev", "eth0"},
		{"-n", name, "link", "set", "eth0", "up"},
	} {
		if err := ip(args...); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// share puts one more process on a host.
func (n *network) share(name string, h *netHost) *netHost {
	n.hosts[name] = h
	return h
}

// under is what a process is started under to be on the host. Unlike ip netns exec it
// leaves the mounts shared, so that a disk can be taken away.
func (h *netHost) under() []string { return []string{"nsenter", "--net=/run/netns/" + h.name} }

func (n *network) close() error {
	var err error
	for name, h := range n.hosts {
		if name != h.name { // it shares one
			continue
		}
		// A namespace that goes takes its links along, but not at once, and the next
		// network has the same names.
		err = errors.Join(err, ip("link", "del", name), ip("netns", "del", name))
	}
	return errors.Join(err, ip("link", "del", bridge))
}

// direction of the packets that are dropped.
type direction int

const (
	bothWays direction = iota
	inwards
	outwards
)

// drop drops packets of the host from and to the others, all of them or some percent.
// Its effect is that the kernel counts packets that were dropped, at least that many.
func (n *network) drop(h string, d direction, percent, least int, others ...string) (*strike, error) {
	n.rules++
	table := fmt.Sprintf("chaos%d", n.rules)
	var addresses []string
	for _, o := range others {
		if a := n.hosts[o].address; !slices.Contains(addresses, a) {
			addresses = append(addresses, a)
		}
	}
	chance := ""
	if percent < 100 {
		chance = fmt.Sprintf("numgen random mod 100 < %d ", percent)
	}
	rules := fmt.Sprintf("table ip %s {\n", table)
	for _, c := range []struct {
		but         direction
		hook, field string
	}{{outwards, "input", "saddr"}, {inwards, "output", "daddr"}} {
		if d != c.but {
			rules += fmt.Sprintf("chain %s { type filter hook %s priority 0; ip %s { %s } %scounter drop; }\n",
				c.hook, c.hook, c.field, strings.Join(addresses, ", "), chance)
		}
	}
	if err := n.nft(h, rules+"}\n"); err != nil {
		return nil, err
	}
	return &strike{
		target: h,
		seen: func() error {
			out, err := command("nsenter", append(n.hosts[h].under()[1:], "nft", "list", "table", "ip", table)...)
			if err != nil {
				return err
			}
			if dropped := sumOf(packetsCounted, out); dropped < least {
				return fmt.Errorf("%d packets were dropped at %s, want %d", dropped, h, least)
			}
			return nil
		},
		mend: func() error { return n.nft(h, "delete table ip "+table+"\n") },
	}, nil
}

var packetsCounted = regexp.MustCompile(`counter packets (\d+)`)

func sumOf(what *regexp.Regexp, text string) int {
	sum := 0
	for _, m := range what.FindAllStringSubmatch(text, -1) {
		n, _ := strconv.Atoi(m[1]) // it matched
		sum += n
	}
	return sum
}

func (n *network) nft(h, rules string) error {
	_, err := command("nsenter", append(n.hosts[h].under()[1:], "sh", "-c", `printf %s "$1" | nft -f -`, "sh", rules)...)
	return err
}

// together is several strikes as one: all must be seen.
func together(target string, all []*strike) *strike {
	return &strike{
		target: target,
		seen: func() (err error) {
			for _, s := range all {
				err = errors.Join(err, s.seen())
			}
			return err
		},
		mend: func() (err error) {
			for _, s := range all {
				err = errors.Join(err, s.mend())
			}
			return err
		},
	}
}

// peersOf are the other nodes.
func (w *world) peersOf(name string) []string {
	var peers []string
	for _, n := range w.nodes {
		if n.Name != name {
			peers = append(peers, n.Name)
		}
	}
	return peers
}

// cutNode cuts a node from its peers; clients and agents still reach it.
func cutNode(who chooser, d direction) func(context.Context, *world) (*strike, error) {
	return func(ctx context.Context, w *world) (*strike, error) {
		ps := who(ctx, w)
		if ps == nil {
			return nil, nil
		}
		return w.net.drop(ps[0].Name, d, 100, 3, w.peersOf(ps[0].Name)...)
	}
}

// cutLink cuts two nodes from each other, the leader and a follower most often.
func cutLink(ctx context.Context, w *world) (*strike, error) {
	a, b := leading(ctx, w), anyNode(ctx, w)
	if a == nil || b == nil {
		return nil, nil
	}
	st, err := w.net.drop(a[0].Name, bothWays, 100, 3, b[0].Name)
	if st != nil {
		st.target += " and " + b[0].Name
	}
	return st, err
}

// cutAgents cuts some agents from all nodes, for less than the grace in which they are
// not called DOWN.
func cutAgents(d direction) func(context.Context, *world) (*strike, error) {
	return func(ctx context.Context, w *world) (*strike, error) {
		ps := someAgents(ctx, w)
		var cuts []*strike
		for _, p := range ps {
			st, err := w.net.drop(p.Name, d, 100, 1, w.peersOf("")...)
			if err != nil {
				return nil, errors.Join(err, together("", cuts).mend())
			}
			cuts = append(cuts, st)
		}
		if len(cuts) == 0 {
			return nil, nil
		}
		return together(namesOf(ps), cuts), nil
	}
}

// lossy has a node lose packets from and to everybody, at random.
func lossy(ctx context.Context, w *world) (*strike, error) {
	ps := leadingOrNot(ctx, w)
	if ps == nil {
		return nil, nil
	}
	others := w.peersOf(ps[0].Name)
	for _, a := range w.agents {
		others = append(others, a.Name)
	}
	percent := 5 + w.rng.IntN(30)
	st, err := w.net.drop(ps[0].Name, bothWays, percent, 10, others...)
	if st != nil {
		st.target += fmt.Sprintf(" by %d %%", percent)
	}
	return st, err
}

// slowLink bounds what a node sends and gets by a token bucket. Its effect is that the
// kernel counts packets that had to wait.
func slowLink(ctx context.Context, w *world) (*strike, error) {
	ps := leadingOrNot(ctx, w)
	if ps == nil {
		return nil, nil
	}
	h := ps[0].Name
	rate := []string{"64kbit", "128kbit", "256kbit", "512kbit"}[w.rng.IntN(4)]
	// What the node sends waits in its namespace, what it gets at the bridge.
	ends := [][]string{{"-n", h, "dev", "eth0"}, {"dev", h}}
	shaper := func(end []string, verb string, more ...string) (string, error) {
		words := append([]string(nil), end[:len(end)-2]...)
		return command("tc", append(append(append(words, "qdisc", verb), end[len(end)-2:]...), more...)...)
	}
	remove := func() (err error) {
		for _, end := range ends {
			_, e := shaper(end, "del", "root")
			err = errors.Join(err, e)
		}
		return err
	}
	for _, end := range ends {
		if _, err := shaper(end, "add", "root", "tbf", "rate", rate, "burst", "8kb", "latency", "400ms"); err != nil {
			_ = remove() // the first one may be there
			return nil, err
		}
	}
	return &strike{
		target: h + " to " + rate,
		seen: func() error {
			held := 0
			for _, end := range ends {
				words := append([]string{"-s"}, end[:len(end)-2]...)
				out, err := command("tc", append(append(words, "qdisc", "show"), end[len(end)-2:]...)...)
				if err != nil {
					return err
				}
				held += sumOf(overLimit, out)
			}
			if held < 10 {
				return fmt.Errorf("%d packets waited at %s, want 10", held, h)
			}
			return nil
		},
		mend: remove,
	}, nil
}

var overLimit = regexp.MustCompile(`overlimits (\d+)`)
