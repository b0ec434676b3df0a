package agent

import (
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/agentplane/agentplane/configs"
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
