package operator

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/agentplane/agentplane/controlplane/consensus"
)

// registry notes what is registered.
type registry map[*grpc.ServiceDesc]any

func (r registry) RegisterService(d *grpc.ServiceDesc, impl any) { r[d] = impl }

func TestEveryMethodIsBuilt(t *testing.T) {
	w := newWorld(t)
	w.transfer = func(string) error { return consensus.ErrNoSuccessor } // it would wait for the next leader
	all := registry{}
	w.Services.Register(all)
	unary, streams := 0, 0
	for d, impl := range all {
		for _, m := range d.Methods {
			unary++
			_, err := m.Handler(impl, t.Context(), func(any) error { return nil }, nil)
			if status.Code(err) == codes.Unimplemented {
				t.Errorf("%s/%s is not built", d.ServiceName, m.MethodName)
			}
		}
		streams += len(d.Streams) // watch_test.go runs two; Follow is of package output
	}
	if len(all) != 9 || unary != 55 || streams != 3 {
		t.Fatalf("%d services with %d calls and %d streams", len(all), unary, streams)
	}
}

func TestNewRefusesWhatIsNotWhole(t *testing.T) {
	w := newWorld(t)
	whole := w.Cluster.o
	for name, edit := range map[string]func(*Options){
		"no node id":  func(o *Options) { o.NodeID = "" },
		"no machine":  func(o *Options) { o.Machine = nil },
		"no proposer": func(o *Options) { o.Proposer = nil },
		"no read":     func(o *Options) { o.Read = nil },
		"no raft":     func(o *Options) { o.Raft = nil },
		"no issuer":   func(o *Options) { o.Issuer = nil },
		"no caller":   func(o *Options) { o.Caller = nil },
	} {
		o := whole
		edit(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s: New takes it", name)
		}
	}
}
