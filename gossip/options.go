package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/memberlist"
)

// DefaultPort is the gossip port of a node, TCP and UDP.
const DefaultPort = 7461

const gossipToTheDead = 30 * time.Second // how long memberlist remembers the gone

// Options says what a pool is.
type Options struct {
	NodeID string // the persisted random id of this node: letters, digits, "-", "_", "."; at most 64
	Label  string // the cluster's id; pools with different labels never mix
	Meta   Meta   // what this node says of itself at first; see Pool.SetMeta

	// Keys is the keyring, the key in use first. At least one.
	Keys [][]byte

	// BindAddr is the host:port to listen on, TCP and UDP alike. An empty host
	// listens on all IPv4 addresses; port 0 takes any free one.
	BindAddr string
	// AdvertiseAddr is the host or host:port that is told to others. Empty means
	// the bound address, or, when that is all addresses, this host's private one.
	AdvertiseAddr string

	// Peers returns the gossip addresses (host or host:port) at which nodes of the
	// cluster should be. Run joins those that are missing. It is called from Run's
	// goroutines and must not block; nil means none.
	Peers func() []string

	Timing Timing       // how fast; zero fields are those of the profile lan
	Logger hclog.Logger // nil logs nothing

	// Transport replaces the network, in tests. The pool shuts it down. BindAddr
	// and AdvertiseAddr are then not used.
	Transport Transport
}

// Transport carries gossip; gossiptest has one in memory.
type Transport = memberlist.NodeAwareTransport

func (o *Options) check() error {
	if !validID(o.NodeID) {
		return fmt.Errorf("node id %q: want 1 to 64 letters, digits, \"-\", \"_\" or \".\"", o.NodeID)
	}
	if o.Label == "" || len(o.Label) > memberlist.LabelMaxSize {
		return fmt.Errorf("label %q: want the cluster's id, 1 to %d bytes", o.Label, memberlist.LabelMaxSize)
	}
	return nil
}

// listen binds the real network.
func listen(o *Options, logger *logBridge) (*memberlist.NetTransport, error) {
	host, port, err := splitAddr(o.BindAddr, DefaultPort)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", o.BindAddr, err)
	}
	switch {
	case host == "":
		host = "0.0.0.0"
	case net.ParseIP(host) == nil:
		return nil, fmt.Errorf("listen on %q: %q is not an IP address of this host", o.BindAddr, host)
	case net.ParseIP(host).IsUnspecified() && host != "0.0.0.0" && o.AdvertiseAddr == "":
		return nil, fmt.Errorf("listen on %q: say which address to advertise", o.BindAddr)
	}
	tries := 1
	if port == 0 {
		tries = 10 // the port that TCP got may be taken for UDP
	}
	for range tries {
		var t *memberlist.NetTransport
		t, err = memberlist.NewNetTransport(&memberlist.NetTransportConfig{BindAddrs: []string{host}, BindPort: port, Logger: logger.std()})
		if err == nil {
			return t, nil
		}
	}
	return nil, fmt.Errorf("listen on %q: %w", o.BindAddr, err)
}

// advertise returns the configured address and port to tell to others; empty
// when the transport shall choose.
func advertise(o *Options, bound int) (string, int, error) {
	if o.AdvertiseAddr == "" {
		return "", 0, nil
	}
	host, port, err := splitAddr(o.AdvertiseAddr, bound)
	if err == nil && host == "" {
		err = errors.New("no host")
	}
	if err != nil {
		return "", 0, fmt.Errorf("advertise %q: %w", o.AdvertiseAddr, err)
	}
	if port == 0 {
		port = bound
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	ips, err := lookup(ctx, host)
	if err != nil {
		return "", 0, fmt.Errorf("advertise %q: %w", o.AdvertiseAddr, err)
	}
	if ips[0].IsUnspecified() {
		return "", 0, fmt.Errorf("advertise %q: peers cannot reach that; name one address of this host", o.AdvertiseAddr)
	}
	return ips[0].String(), port, nil
}

// lookup resolves a host, which may be an address already. A nil error comes
// with at least one address.
func lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip.Unmap()}, nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("%q has no address", host)
	}
	for i := range ips {
		ips[i] = ips[i].Unmap()
	}
	return ips, nil
}

// splitAddr takes host:port, host, or :port apart.
func splitAddr(addr string, defaultPort int) (string, int, error) {
	if ip, err := netip.ParseAddr(addr); err == nil {
		return ip.String(), defaultPort, nil // a bare IPv6 address has colons, too
	}
	host, sport, err := net.SplitHostPort(addr)
	if err != nil {
		host, sport, err = net.SplitHostPort(addr + ":")
	}
	if err != nil {
		return "", 0, err
	}
	if sport == "" {
		return host, defaultPort, nil
	}
	port, err := strconv.ParseUint(sport, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("port %q is not within 0 to 65535", sport)
	}
	return host, int(port), nil
}
