package agent

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/agentplane/agentplane/agent/agenttest"
	"github.com/agentplane/agentplane/proto/identity"
)

// TestDistrustWaitsForNoRenewal: who finds that one node does not accept the certificate
// goes on to the next one, also while a renewal hangs at a third.
func TestDistrustWaitsForNoRenewal(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	h.ready()
	h.stop()
	dir, err := openDirectory(h.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.close() }()
	who, err := loadRecord(dir)
	if err != nil {
		t.Fatal(err)
	}
	cred, err := loadCredential(dir, who.id())
	if err != nil {
		t.Fatal(err)
	}
	tr, err := loadTrust(filepath.Join(h.dir, trustFile), nil)
	if err != nil {
		t.Fatal(err)
	}
	hangs := make(chan struct{}, 8)
	r := newRenewer(cred, tr, func(ctx context.Context, _, _ string) (net.Conn, error) {
		hangs <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}, func() identity.Moment { return identity.Moment{Own: time.Now()} }, hclog.NewNullLogger())
	ctx, cancel := context.WithCancel(t.Context())
	ended, told := make(chan struct{}), make(chan struct{})
	go func() { defer close(ended); _ = r.renew(ctx) }()
	<-hangs
	go func() { defer close(told); r.distrusted() }()
	select {
	case <-told:
	case <-time.After(5 * time.Second):
		t.Error("distrust of the certificate waits for a renewal that hangs")
	}
	cancel()
	<-ended
	<-told
}

func TestNextPatience(t *testing.T) {
	patience := time.Duration(0)
	for i, step := range []struct{ after, want time.Duration }{
		{time.Hour, renewForced}, // the first in a long time
		{2 * time.Second, 2 * renewForced},
		{5 * time.Second, 4 * renewForced},
		{9 * time.Second, 8 * renewForced},
		{20 * time.Second, 16 * renewForced},
		{40 * time.Second, maxForced},
		{maxForced - 1, maxForced},
		{maxForced, renewForced}, // a calm minute
	} {
		if patience = nextPatience(patience, step.after); patience != step.want {
			t.Errorf("patience %d, after %v: %v, want %v", i, step.after, patience, step.want)
		}
	}
}
