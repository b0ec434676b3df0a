// Package health judges, on the leader, which sessions are over and which agents
// are DOWN.
//
// # What it promises
//
//   - A session ends without its node's word only on evidence: the node was removed,
//     a later process of it has begun, gossip calls it dead or gone and it does not
//     answer, or it answered twice without holding the session. What ends is a session,
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
// Gossip's word alone ends nothing either: a node whose gossip port is blocked, or
// whose host is starved, still serves its agents. A node that gossip newly calls dead
// or gone is asked at once; a refused connection or two seconds of silence confirm it
// and its sessions end. When it answers, they stand, it is asked every two seconds
// while gossip keeps its word, and only silence for the whole grace ends them. Nodes of
// which gossip knows nothing (it forgets the dead, and a restarted cluster never met
// them) are judged by that silence alone. Nodes that gossip calls alive or suspect are
// never judged by silence: an agent that reaches them is served, and one that does not
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
// To act on gossip's word alone: one starved host called its peers dead, and every
// agent of healthy nodes had to reconnect.
//
// To end a session after one answer without it: a node serves a session only after
// its own state has applied it, so a node that lags behind the leader truthfully does
// not hold what the leader's state already shows.
package health
