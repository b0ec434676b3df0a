// Package bare is raft behind gRPC and a natural batcher, and nothing else: the
// yardstick beside which a node's submissions are measured.
//
// It has what any program of this kind needs, with the same stores (raft-wal for the
// log, boltdb for term and vote), the same timers, limits and snapshots of raft, and
// mutual TLS 1.3 on both ports. It lacks what makes a control plane: guards around the
// stores, checksums, forwarding from followers, authorization, reads, membership, and
// a state that does something with an entry. Its state counts entries and bytes.
//
// [Serve] is one process of three. It binds both ports, says on its output which they
// are, and reads on its input who the others are and what to prove itself with. The
// end of the input ends it: no process is left when its parent dies. [Cluster] is the
// parent's side.
//
// # Durability
//
// Apply answers when a majority has fsynced the entry and this process's state has
// applied it, as a node does. A process does not come back: the directory is of one
// life.
//
// # Goroutines
//
// Serve ends all that it starts before it returns, but for the one that reads the
// input, which ends with the input, and those of raft's transport, whose connections
// are closed.
package bare
