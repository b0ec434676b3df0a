package controlplane

import (
	"net"

	"github.com/agentplane/agentplane/controlplane/peer"
)

// probeGossip says at the start that the address of gossip cannot be had. The pool
// itself opens only when there is a cluster, and to find out in the middle of init or
// join costs the node's life. Whoever takes the address between the two still does.
func probeGossip(address string) error {
	if _, port, err := net.SplitHostPort(address); err != nil || port == "0" {
		return nil // what is no address the pool says
	}
	l, err := net.Listen("tcp", address)
	if err == nil {
		err = l.Close()
	}
	if err == nil {
		var c net.PacketConn
		if c, err = net.ListenPacket("udp", address); err == nil {
			err = c.Close()
		}
	}
	if err != nil {
		return peer.ListenError("listen for gossip", address, "--gossip-listen", err)
	}
	return nil
}
