// Package consensustest runs clusters of consensus.Host in virtual time: hosts on an
// in-memory [Network] that delays, loses, cuts, holds and resets, and on in-memory
// disks ([MemDisk]) that survive a kill, lose what was not synced, fail and hang.
//
// It works with any consensus.Machine. A test is
//
//	synctest.Test(t, func(t *testing.T) {
//		c := consensustest.New(t, consensustest.Options{Nodes: 3})
//		c.WaitLeader()
//		c.Propose(ctx, muts...)
//		c.Kill(0)
//		...
//		c.WaitAgree()
//	})
//
// The cluster closes itself in a cleanup of t, inside the bubble.
//
// # What is modelled, and what is not
//
// Messages of one direction between two nodes keep their order, as on a connection.
// A lost message makes its call fail after the transport's timeout, as a dead link
// does. A kill resets connections: callers and peers notice at once. A partition does
// not: calls wait for their timeout.
//
// Pause holds everything that a node sends and is sent, and delivers it on Resume.
// A stopped process would not see its timers either, but one bubble has one clock:
// a paused leader therefore notices its lost lease. To model a leader whose clock
// stands still, give that node long timers (Options.Host), as the stale-read test of
// consensus does.
//
// Kill takes the disk's image at that instant; the old host then runs into the void
// until it has closed. [Cluster.Propose] answers unknown for calls in which the node
// was killed, as a broken connection would.
//
// Refuse is a firewall that resets and refuses: callers are told at once, and the node's clients
// do not reach it either. A proposal that it had before goes on waiting.
//
// # What is judged in each test
//
// Nodes of a [Cluster] store under one index and term one entry, and give their vote to no log
// that ends before their own. What breaks that fails the test in which it happens (judge.go).
//
// It is virtual time, not determinism: a seed fixes the faults and the load, not the
// scheduler.
package consensustest
