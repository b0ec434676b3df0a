package controlplane

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"time"

	"github.com/agentplane/agentplane/proto/identity"
)

// lookupTimeout bounds the look-up of the advertised host.
const lookupTimeout = 5 * time.Second

// advertised is the address that others are told. One that nobody could use is refused
// here, and not found out by those who try; a name is looked up by lookUp.
func (n *Node) advertised() (string, error) {
	address, err := advertise(n.o.Config.Advertise, n.port.Addr().String())
	if err != nil {
		return "", err
	}
	if err := usable(address); err != nil {
		return "", fmt.Errorf("advertised %w: give another with --advertise HOST or HOST:PORT", err)
	}
	return address, nil
}

// lookUp refuses to advertise a host that has no address, unless the node is a member:
// its peers may know the name all the same, and a name server that is down must not keep
// a cluster from starting.
func (n *Node) lookUp(ctx context.Context) error {
	host, _, err := net.SplitHostPort(n.advertise)
	if err != nil || net.ParseIP(host) != nil || n.o.Surroundings.Dial != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	_, err = net.DefaultResolver.LookupHost(ctx, host)
	switch {
	case err == nil:
		return nil
	case n.hasJoined():
		n.o.Logger.Warn("the advertised host is not found by its name", "host", host, "err", err)
		return nil
	}
	return fmt.Errorf("advertised address %q: %w: give another with --advertise HOST or HOST:PORT", n.advertise, err)
}

// usable says why nobody can connect to the address, whatever the network is like.
func usable(address string) error {
	if err := identity.ValidateAddress(address); err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("address %q: %w", address, err)
	}
	ip := net.ParseIP(host)
	switch {
	case ip == nil:
		return nil
	case ip.IsUnspecified():
		return fmt.Errorf("address %q: %s means every address of this host and none of another's", address, host)
	case ip.IsMulticast(), ip.Equal(net.IPv4bcast):
		return fmt.Errorf("address %q: %s is not the address of one host", address, host)
	}
	return nil
}

// advertise completes the address that others are told.
func advertise(configured, bound string) (string, error) {
	host, port, err := net.SplitHostPort(bound)
	if err != nil {
		return "", fmt.Errorf("bound address %q: %w", bound, err)
	}
	if configured != "" {
		if h, p, err := net.SplitHostPort(configured); err == nil {
			return net.JoinHostPort(h, p), nil
		}
		return net.JoinHostPort(configured, port), nil
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
		if private := privateAddress(); private != "" {
			host = private
		}
	}
	return net.JoinHostPort(host, port), nil
}

// privateAddress is the first private address of an interface that is up, IPv4
// before IPv6; "" when there is none.
func privateAddress() string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	found := ""
	for _, a := range addrs {
		ip, ok := a.(*net.IPNet)
		if !ok || !ip.IP.IsPrivate() {
			continue
		}
		if ip.IP.To4() != nil {
			return ip.IP.String()
		}
		found = cmp.Or(found, ip.IP.String())
	}
	return found
}

// reachable refuses to advertise a loopback address to a cluster that is elsewhere.
func reachable(advertised string, addresses []string) error {
	mine, _, err := net.SplitHostPort(advertised)
	if err != nil {
		return fmt.Errorf("advertised address %q: %w", advertised, err)
	}
	for _, a := range addresses {
		host, _, err := net.SplitHostPort(a)
		if err != nil {
			return fmt.Errorf("address %q: want HOST:PORT", a)
		}
		if loopback(mine) && !loopback(host) {
			return fmt.Errorf("you advertise %s but join %s: peers cannot reach you", mine, host)
		}
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}
