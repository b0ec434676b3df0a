// Package controlplane composes a node out of the packages below it. It holds no
// logic of its own beyond order: what is opened before what, who is told when trust
// changes, which loops run while this node leads, and how a node stops.
//
// # The life of a node
//
// [Open] takes the data directory (lock, node id, start counter) and binds the port
// and the local socket. A node that belongs to no cluster waits there for Init or
// Join, which leave a boot.state behind; everything after is a [member]'s life, the
// same whether the node was founded, joined or restarted: a crash between any two
// steps is continued by the next start.
//
//	waiting --Init--> boot.state of a founder (index 0), raft bootstrapped
//	waiting --Join--> boot.state from the cluster (enrolled and registered)
//	member: consensus, port, gossip, services; a founder's first office founds the
//	        cluster; a node that raft does not know asks to be added, until it is
//
// # Trust
//
// boot.state is what a node trusts before its replicated state has caught up. The
// goroutine that applies entries also writes it: an entry that changes nodes, keys
// or the feature level is answered only after the new boot.state is on disk, so
// that a node which comes back can always verify a leader that was elected
// meanwhile by those whom the entry made known.
//
// # Time
//
// Certificates are judged by the node's wall clock and by the cluster's time, which is what
// the state last said and the monotonic clock since; either may call one valid. The state
// counts only once it has been up to date in this life of the node, except that it is never
// earlier than what the state says.
//
// # The local socket
//
// Its callers are known by the kernel: Init and Join, and Status, which tells the owner
// of a node's files how the cluster looks from there when the node's state knows nobody,
// because it was started alone and its log waits for a leader.
//
// # Stopping
//
// The order is: stop being ready, send agents elsewhere, hand over leadership (with
// a watchdog), finish calls, say goodbye to gossip, close consensus, close the
// port, release the directory. Each step has a bound; the process ends with the
// last, whatever the others did.
//
// # Removal
//
// A node that was removed ends by itself, in order, with [ErrRemoved]. It learns of it
// from its own state, when that still got the entry, or by asking: while it hears of no
// leader it asks its peers, whose certificates it verifies by its own bundle, and shows
// none itself, since its own is refused. One answer is enough; who could give a false
// one is a node of the cluster.
//
// # When something breaks
//
// Crash-only: a failing disk, a state machine that meets what it does not know, or a
// stuck transfer ends the process with its reason ([ExitCode]); the supervisor starts
// it again.
package controlplane
