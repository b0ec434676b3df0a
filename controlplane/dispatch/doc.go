// Package dispatch is the node's side of AgentService.Session: it opens the sessions
// of agents, judges their heartbeats, claims work for free slots, delivers what was
// claimed, and carries reports into the log.
//
// # What it promises
//
//   - It acts on a session only after this node's own state has applied the
//     OpenSession that granted it, and stops the moment that state shows a newer
//     epoch, another node, or an ended session. Nothing is sent from an outcome: every
//     Deliver, CancelAttempt and Ask is read from the applied state ([fsm.View]).
//   - A claim whose outcome was lost is still delivered, and one that was refused never
//     is, since only the state is looked at. A claim made on another node, or in an
//     earlier session, is delivered under the current epoch.
//   - A final report is confirmed only when the state holds it, or when nothing can
//     ever hold it (the command was purged, the attempt was given up). RUNNING is not
//     confirmed: only what has ended leaves the agent's journal.
//   - Heartbeats stay in memory; only a transition is proposed.
//   - Everything an agent can make large is bounded: streams, messages a second, open
//     reports and their bytes, words, slots, and the queue towards it. What is dropped
//     is counted ([Stats]) and logged.
//
// # States of a stream
//
//	challenge   the node has said the epoch its state shows, and waits for Hello
//	opening     OpenSession is proposed, repeated with the same content while the
//	            outcome is unknown; superseded goes back to challenge
//	open        applied here; Welcome is sent; reports are taken; Ready is awaited
//	ready       ReadySession is applied: claims and deliveries
//	ended       the handler has returned; the sweeper ends the session in the log
//
// # What may be claimed
//
// Among what is released for an agent a session claims in the order of [fsm.View.Work]:
// the highest priority first, then who came first. It passes by what has to wait for a
// lock of the host, by the rule of [fsm.Turn], and what lacks a place in a lock of the
// fleet, which keeps nothing from anybody behind it. Whatever waits is woken by the feed:
// for the host by rows of its agent, for the fleet by the places themselves, in the order
// in which the sessions of this node came ([places]). Between nodes there is no order:
// whose claim comes first into the log has the place, the other waits on.
//
// # Goroutines
//
// Each stream has three. The handler owns everything about the session, so that none
// of it needs a lock; it never waits for the agent, for raft or for another session.
// The receiver hands it one message at a time. The writer is the only one that calls
// Send; it takes from a bounded queue into which nobody waits. A Send or Recv that
// hangs is freed by the handler's return, which is how a stream is ended; Run waits
// for all three.
//
// Run holds the rest: one reader of the change feed that wakes the sessions of agents
// of which a row has changed (a level, not a message: a session that was woken many
// times looks once), five workers that coalesce proposals of all sessions, the
// sweeper, and the watch on leader and trust bundle.
//
// # Company
//
// A command for a thousand agents is a thousand claims and two thousand reports, and what
// they cost is entries: each is a call, an fsync on every node and a transaction. Claims
// come together, since one change wakes all sessions; a lane lets those that are awake
// offer theirs before it takes a batch. Reports come one by one over the time in which
// programs end, so that they are gathered (gather.go): while many reports come of a crowd
// of open attempts, batches that are not full go once in 100 ms. A report waits for nobody
// when no other end is awaited (a lone command, the last of a thousand), or when few
// attempts were open of late, or few reports came. RUNNING that has not gone yet when the
// end comes is not proposed: the end goes in its place.
//
// # When a step dies
//
//   - A stream breaks, at any step: the sweeper finds a live session of this process
//     that no stream holds and proposes EndSession until the state shows it. That also
//     covers an OpenSession that commits after its stream is gone.
//   - A proposal fails or stays unknown: the owner looks at the state again and repeats
//     the same content, with back-off, while the session lives. Reports are kept; the
//     agent's journal has them as well.
//   - The feed is compacted (or the state is restored from a snapshot): every session
//     looks at the state, and all live sessions are swept.
//   - The node dies: gossip or its next start tells the leader, which begins the grace.
//     Its claims stay CLAIMED; the node that gets the agent next delivers them.
//   - Run ends: all streams end with UNAVAILABLE; their grace begins as for a dead node,
//     unless Drain came first and saw them ended.
//
// # Dropped
//
//   - Per-change messages to sessions: they have to be queued, bounded, and reconciled
//     with the state anyway after a compaction. Looking again is one path for all.
//   - A goroutine for each claim: the batcher of consensus coalesces calls, but ten
//     thousand waiting goroutines after an election help nobody.
//   - A window for every batch of reports: a lone command would pay it twice.
//   - A window that follows from how many attempts are open now: it shrinks while a crowd
//     ends, and the last tenth of a thousand cost more entries than all others.
//   - Confirming from outcomes alone: an agent that comes back with results that the
//     state already holds would put them all through the log once more.
//   - CatchUp after "superseded": waiting until this node has applied the very entry
//     that refused shows the newer epoch as well, and asks nobody.
package dispatch
