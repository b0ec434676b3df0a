package controlplane

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
)

func TestProbeGossipOnAnAddressOfAnotherHost(t *testing.T) {
	err := probeGossip("192.0.2.1:7461") // kept for documentation: nobody has it
	if !errors.Is(err, syscall.EADDRNOTAVAIL) || !strings.Contains(err.Error(), "no interface of this host has the address") || strings.Contains(err.Error(), "another process") {
		t.Errorf("probeGossip = %v, want that the address is not this host's", err)
	}
}

func TestProbeGossip(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	for _, taken := range []string{tcp.Addr().String(), udp.LocalAddr().String()} {
		if err := probeGossip(taken); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "--gossip-listen") || !strings.Contains(err.Error(), taken) {
			t.Errorf("probeGossip(%q) = %v, want that it is taken and what to do", taken, err)
		}
	}
	if err := tcp.Close(); err != nil {
		t.Fatal(err)
	}
	for _, free := range []string{"127.0.0.1:0", tcp.Addr().String()} {
		if err := probeGossip(free); err != nil {
			t.Errorf("probeGossip(%q) = %v", free, err)
		}
	}
}
