package main

import (
	"time"

	"github.com/agentplane/agentplane/proto/client"
)

// chosenID returns what --id says, or a new id of the cluster's time.
func (a *app) chosenID(now int64) (string, error) {
	if a.flags.id != "" {
		return a.flags.id, nil
	}
	return client.NewID(time.Unix(0, now))
}
