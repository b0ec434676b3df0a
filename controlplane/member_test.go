package controlplane

import (
	"net"
	"testing"

	"google.golang.org/grpc"
)

// A node that learns at once that it was removed stops its server before it was begun:
// what is said in the end is the removal.
func TestServerThatWasStoppedBeforeItBeganIsNoError(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	s.Stop()
	if err := serveGRPC(t.Context(), s, ln); err != nil {
		t.Errorf("serveGRPC = %v", err)
	}
}
