package agent

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/configs"
	"github.com/agentplane/agentplane/proto/client"
)

// Options configure an Agent.
type Options struct {
	// Settings gives the configuration in force. It is asked anew where a value may change
	// while agentd runs; who and where the agent is stays as New has seen it.
	Settings func() configs.Agent
	// Version of the program; told to the cluster.
	Version string
	// Executable is called as "EXECUTABLE supervise DIR" for each attempt; /proc/self/exe
	// when empty. Its main must serve that, see execute.SuperviseMain.
	Executable string
	// Policy is the host's own say in what runs; nil lets everything run.
	Policy Policy
	// Logger is required.
	Logger hclog.Logger

	// Dial is how nodes are reached; nil is a net.Dialer.
	Dial client.Dial
	// Runner makes what runs programs, given with what package execute would be opened; nil
	// opens it. What it makes keeps that package's promises.
	Runner func(execute.Options) (Runner, error)
	// BootID gives the kernel's name for the time since it was started; nil reads it.
	BootID func() (string, error)
	// Facts are the host's; nil is collect.Host.
	Facts func(context.Context) map[string]string

	// WallClock is the host's; nil is time.Now.
	WallClock func() time.Time

	// JournalSynced is told what of the journal outlives a loss of power, for tests: see
	// journal.Options.
	JournalSynced func(name string, size int64)

	// BackoffCap bounds the wait between two rounds over the nodes until the cluster gives
	// a bound; 15 s.
	BackoffCap time.Duration

	opened func(*life) // for tests, which break what Run has opened
}

func (o *Options) validate() error {
	switch {
	case o.Settings == nil:
		return errors.New("make agent: no settings")
	case o.Logger == nil:
		return errors.New("make agent: no logger")
	}
	return nil
}
