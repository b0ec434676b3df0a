// Package health judges, on the leader, which sessions are over and which agents
// are DOWN.
//
// # What it promises
//
//   - A session ends without its node's word only on evidence: the node was removed,
//     a later process of it has begun, gossip calls it dead or gone, or the node
//     itself was asked twice and does not hold the session. What ends is a session,
//     not an agent: grace begins, and the agent may reopen on any node.
//   - No false death (DESIGN I11). An agent becomes DOWN when its grace has passed
//     by the cluster's time and, besides, by the time during which this leader was
//     in office and awake. A new leader gives each grace anew and whole, since
//     nobody could open a session while there was no leader; a leader that was
//     stopped for an hour counts one second of it.
//   - A mass failure is held: see [Brake].
//   - Every proposal names what it was decided on (session epoch, start counter), so
//     a session opened meanwhile is never hit.
//
// # How it works
//
// [Monitor.Run] is the life of one term. It begins with the replicated state, asks
// every node that shows sessions for its table, follows the change feed, and looks at
// gossip every quarter of a second. The decisions ([Lost], [Missing], [Brake.Decide])
// are pure; the loop around them only remembers when it first saw what. Nothing of
// that is durable: a new leader begins with the state alone.
//
// Gossip's word is acted on once each time it changes to dead or left. When sessions
// appear on that node afterwards, its agents do reach it: from then on the node
// itself is asked, and only its silence for the whole grace ends them. Nodes of which
// gossip knows nothing (it forgets the dead, and a restarted cluster never met them)
// are judged by that silence alone. Nodes that gossip calls alive or suspect are never
// judged by silence: an agent that reaches them is served, and one that does not
// moves by itself.
//
// Tables are asked for again every half minute while the node shows sessions: that
// heals an EndSession that its node could not bring through.
//
// # Goroutines
//
// Run owns one that reads the feed and, per node, at most one that asks it. All have
// ended when Run returns. Memory is bounded by the fleet: one small record for each
// session that is not DOWN.
//
// # Tried and dropped
//
// To end a session after one answer without it: a node serves a session only after
// its own state has applied it, so a node that lags behind the leader truthfully does
// not hold what the leader's state already shows.
package health
