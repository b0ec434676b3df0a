// Package session is the agent's side of AgentService.Session: it keeps one session
// with one node of the cluster, for ever.
//
// # One session
//
// [Keeper] owns the only session. The old stream is closed before Hello goes out on
// another one; asking another node for its Challenge is no session yet. A delivery or a
// cancel whose incarnation or epoch is not that of the session is dropped, and a node of
// an older incarnation than the agent has seen is not talked to.
//
// # Which node
//
// Nodes are ranked by rendezvous hashing of agent and node: each agent has its own order,
// and the agents of a node that dies spread over all others. The nodes of the bundle come
// first; configured addresses that the bundle does not know follow, since they are mostly
// other names of the same nodes. When a session breaks, the next node is tried at once.
// When all have failed the agent waits, with full jitter, up to 1, 2, 4, 8 … s, capped by
// the hint of the last Welcome, and begins anew. Only a session that has lasted resets
// the back-off: one that breaks as soon as it stands must not be opened in a tight loop.
//
// Told to move away, the agent looks for a node that speaks to it (a node without a
// leader answers Refused instead of Challenge) while the old session goes on, and leaves
// the old one only for a stream that stands. When that node refuses after all, the walk
// goes on as after any other loss.
//
// # Handshake
//
// Challenge, Hello, Welcome, the epoch fsynced, Ready. Hello carries every open record of
// the journal; those that do not fit into one message go without their output as RUNNING,
// and their reports follow Ready. What a refusal asks for is a table in refusal.go. Of an
// agent that a node does not know the others are asked first; only when none lets it in is
// it to enrol again. What a person has to mend is logged once, and again every ten minutes.
//
// # Goroutines and queues
//
// Run has none of its own. A session has a reader, a seeker while it has been told to
// move, and what runs beside it (output); all have ended when the session has. Nothing waits for the work: messages are
// offered to it, and when its queue is full a delivery ends the session (it comes again in
// the next one) while anything else is dropped, since nodes repeat it. The silence of a
// node is noticed by a timer that every message winds up again.
//
// # Durability
//
// Nothing is stored here. Work.Begin has made the epoch durable when it returns.
//
// # Dropped
//
//   - Hello on the new node before the old stream is closed: the cluster would fence the
//     old session anyway, and for a moment the agent would serve two.
//   - Going back to the best-ranked node when it returns: after a rolling restart every
//     agent would move twice.
package session
