package main

import (
	"cmp"
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/agentplane/agentplane/agent"
	"github.com/agentplane/agentplane/configs"
)

// agent is the life of the daemon.
func (p *program) agent(ctx context.Context, sources configs.Sources) error {
	first, err := configs.Load(sources) // says how to log
	if err != nil {
		return &usageError{err}
	}
	logger := first.Agent().Log.Logger("agentd", p.stderr) // where a service manager listens
	watcher, err := configs.NewWatcher(configs.WatcherOptions{Sources: sources, Logger: configs.Slog(logger.Named("config"))})
	if err != nil {
		return &usageError{err}
	}
	settings := func() configs.Agent { return watcher.Current().Agent() }
	a, err := agent.New(agent.Options{Settings: settings, Version: cmp.Or(version, "dev"), Logger: logger})
	if err != nil {
		return err
	}
	// The watcher ends with the agent, whichever way that ends.
	watching, stop := context.WithCancel(ctx)
	defer stop()
	var group errgroup.Group
	if sources.File != "" {
		group.Go(func() error { return watcher.Run(watching) })
		group.Go(func() error {
			watcher.FollowLevel(watching, logger)
			return nil
		})
	}
	err = a.Run(ctx)
	stop()
	if watchErr := group.Wait(); err == nil {
		err = watchErr
	}
	return err
}
