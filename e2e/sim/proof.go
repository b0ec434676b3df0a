package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// proof has every agent run one more command. It is an error when some do not, and must not
// be that a node's watch does not show it.
func (w *World) proof(ctx context.Context) error {
	o := w.operators
	c := o.compose(rand.New(rand.NewPCG(w.seed, 0x70726f6f66)))
	spec, env := &agentplanev1.CommandSpec{}, &agentplanev1.Envelope{}
	_ = proto.Unmarshal(c.envelope, env)
	_ = proto.Unmarshal(env.GetSpec(), spec)
	plainly(spec)
	spec.NotAfter, spec.RunTimeout = w.newest().Now()+int64(20*time.Second), int64(5*time.Second)
	env.Spec, _ = proto.Marshal(spec)
	o.mu.Lock()
	c.envelope, _ = proto.Marshal(env)
	c.agents, c.all, c.made, c.prints, c.confirms, c.contents = nil, true, false, false, false, nil
	for _, a := range w.agents {
		c.agents = append(c.agents, a.name)
	}
	o.mu.Unlock()
	try, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	o.submit(try, o.clients[0], c)
	watching, give := context.WithTimeout(ctx, watchPatience)
	silent := o.followThrough(watching, c.id)
	defer silent()
	defer give()
	for {
		good, ended := 0, 0
		for i := range w.newest().Invocations(c.id) {
			if i.GetState() >= raftlogv1.AttemptState_ATTEMPT_STATE_LOST {
				ended++
			}
			if i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED {
				good++
			}
		}
		switch {
		case good == len(w.agents):
			for _, wrong := range silent() {
				w.fault("%s", wrong)
			}
			return nil
		case ended == len(w.agents):
			return fmt.Errorf("%d of %d agents ran %s", good, len(w.agents), c.id)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d agents ran %s: %w", good, len(w.agents), c.id, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
		if try.Err() != nil && ended == 0 && good == 0 {
			return fmt.Errorf("nobody ran %s", c.id)
		}
	}
}
