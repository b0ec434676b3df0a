// Package lab runs real agentplane processes on this machine: nodes, agents and
// agentctl, in a directory of their own, on loopback, without root. The demo shows
// the product with it, and the end-to-end tests break things with it.
//
// A [Lab] builds or finds the three binaries, starts processes, waits for conditions
// with a deadline, and keeps every process's log as a file. Kill is a real SIGKILL;
// Close ends whatever still runs, the supervisors that outlive their agent included.
//
// Methods of different processes may be called at once; those of one may not.
package lab
