//go:build race

package agent

// Under the race detector a supervisor sleeps for a second before it exits.
const raceDetector = true
