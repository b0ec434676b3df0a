package main

import (
	"cmp"
	"context"
	"log/slog"

	"github.com/hashicorp/go-hclog"
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
	logger := p.logger(first.Agent().Log)
	watcher, err := configs.NewWatcher(configs.WatcherOptions{Sources: sources, Logger: slog.New(slogHandler{logger.Named("config")})})
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
		group.Go(func() error { return followLevel(watching, watcher, logger) })
	}
	err = a.Run(ctx)
	stop()
	if watchErr := group.Wait(); err == nil {
		err = watchErr
	}
	return err
}

// logger writes to stderr, which is where a service manager listens.
func (p *program) logger(c configs.Log) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Name:       "agentd",
		Level:      hclog.LevelFromString(c.Level),
		Output:     p.stderr,
		JSONFormat: c.Format == "json",
	})
}

// followLevel takes a changed log level over.
func followLevel(ctx context.Context, w *configs.Watcher, log hclog.Logger) error {
	for {
		now, changed := w.Watch()
		log.SetLevel(hclog.LevelFromString(now.Agent().Log.Level))
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}
