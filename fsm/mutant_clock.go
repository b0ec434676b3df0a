//go:build agentplane_mutant_clock

package fsm

import "time"

// The mutant: each replica asks its own clock.
func timeOf(int64) int64 { return time.Now().UnixNano() }
