// Package consensus hosts raft: it turns hashicorp/raft into three promises and
// keeps raft's sharp edges inside.
//
//   - [Host.Propose] answers the outcomes of mutations that a majority holds and
//     this node's state has applied, or says whether nothing happened
//     ([ErrNotLeader], [ErrBacklog], [ErrShutdown]) or whether the entry may still
//     commit ([ErrUnknown]). An unknown proposal is repeated with the same content
//     only.
//   - [Host.ReadIndex] answers an index that contains every proposal acknowledged
//     before the call began, by whatever leader. Whoever then waits until its own
//     state has published that index reads linearizably. It holds when processes
//     are paused.
//   - Options.RunOffice runs on at most one node per term, only between an applied
//     take-office entry and the end of the term.
//
// # Terms of office
//
// Winning an election is not leading. A node that raft calls leader reads the wall
// clocks of the voters, proposes a take-office entry that carries their median,
// and leads once its own state has applied that entry: everything committed by
// earlier leaders lies before it, so the entry is the barrier. Its number is the
// leader epoch with which later entries are stamped; entries of an older epoch
// change nothing. Within the term time advances by the monotonic clock, slewed by
// at most a tenth towards the median, starting at what the state calls now: a year
// that a wrong clock once added is walked off without time standing still.
//
// An even number of voters has two clocks in the middle, and by them alone nobody can tell
// which is wrong. The one counts that is nearer to the cluster's time so far
// ([Options].Reckoned): when one of three nodes is down, a clock that is set back or ahead
// costs its node the leadership and moves nobody. Before this node's state has been up to
// date the lower one counts.
//
// # Batching
//
// Two workers move proposals from one bounded queue into entries. A worker takes
// what has queued, hands the entry to raft, and only then lets the other one take:
// order is the order of arrival, no timer waits for company, and what arrives while
// two entries are on their way shares the third. More than two in flight was
// measured to make batches smaller and nothing faster. The mutations of one
// Propose lie in one entry.
//
// # Reads
//
// The round is the one of DESIGN section 6. raft's VerifyLeader credits replies
// that waited in a socket while the process was stopped, AppliedIndex means queued,
// and a Barrier never reaches the state: none is used. Rounds are shared ([Rounds]): a
// read joins only a round that starts after it arrived. Two may be on their way.
//
// # Giving up leadership
//
// A node does not want to lead ("unwilling") while its disk is below the floor of free
// space or its wall clock is far from the median. It hands over and does not campaign.
// Not campaigning is done by keeping its own pre-vote requests from leaving, and not
// by timeouts of an hour: a raft follower clears its known leader only when its
// heartbeat timeout fires, and refuses pre-votes and votes until then, so with an hour
// a dead leader's cluster could not elect anybody while one of two survivors is short
// of space. With the gate such a node times out, stands still as a candidate that asks
// nobody, votes, and follows. After ten heartbeat timeouts without any leader it
// campaigns all the same: it may be the only survivor that holds everything committed,
// and hands over once another does. Alone in its cluster it leads, whatever its disk
// or clock says: nobody else could.
//
// A transfer may leave raft refusing everything as "transfer in progress"
// (raft#696). Each transfer has a watchdog that ends the process when that is so
// twice the election timeout later. RunOffice that fails, and a take-office entry
// that fails, hand over; when nobody takes over the process ends.
//
// # Late snapshots
//
// raft installs a snapshot over a log that reaches further and loses what lies behind
// it (raft#697), and refuses for ever what begins where its log is compacted away. See
// installs.go. And a node that dies between such a snapshot and the deletion of its log
// begins with a log that ends before the snapshot, behind which nothing can be appended: it
// is emptied at the start (mark.go).
//
// # Senders that are stuck or late
//
// raft can wait for ever while it sends entries to a follower, which then hears
// heartbeats and nothing else (raft#612). See pipeline.go.
//
// And a sender may outlive its term: it then carries entries, or a snapshot, of the next
// term in a request of the last one, which followers refuse (gate.go).
//
// # Heartbeats
//
// raft answers heartbeats outside its main loop, so that they do not wait for the disk,
// and lets them change the term there, on which the main loop relies (raft#695). Here only
// those of the current term are answered so; see voteStore.beat.
//
// # Dead leaders
//
// See failover.go: a majority that has seen the leader's connections break lets one
// of them start an election at once. Where logs are equal the smaller id goes
// first, so that two survivors do not split the vote.
//
// # Disk
//
// Crash-only: any failing write of log or stable store, any read of the log that the disk
// fails, and any call in flight for longer than Options.StallAfter, is fatal; after it nothing is written and nobody
// is answered. Around the stores lie, from the outside: raft's LogCache, timing,
// the checksum of every entry read, and the log mark; term and vote are one value with
// a checksum under one key, and a bbolt file with a damaged meta page is refused, since
// bbolt would go on with what was before its last commit. What each is for stands at
// its type. What cannot be read at a start is not called damaged: it may be there again. A
// page of bbolt's mappings that cannot be read is an error, not a signal (unread.go). A term that is behind the log refuses the start, as a lost vote would. A mark
// that the log does not reach refuses the start: raft-wal drops the end of its log
// silently when a frame header is damaged, and a node that forgot acknowledged entries can
// elect a stale leader. Such a node must rejoin empty. A snapshot carries a seal over what
// raft believes of it without a checksum (sealed.go): index, term and configuration.
// Configuration entries and raft's no-ops carry no checksum of ours; the mark and the
// decoder are what guards them.
//
// The log is bounded by bytes (compaction.go), because raft counts entries; it may grow
// with the state, of which every snapshot writes all. In memory
// raft's cache keeps the last 512 entries and a lagging follower is sent up to 512 at
// once: with entries of the largest size that is 256 MiB each, with those of real life
// a few.
//
// # Logs
//
// raft says the same of a dead peer several times a second, for as long as it is dead.
// Its lines, and those of its transport, go through [Quiet].
//
// # Goroutines
//
// Run owns every goroutine of the host; those of a term end before the next term's
// begin. Calls that wait for an answer of raft run on the caller's goroutine or on
// a worker and end when raft answers. Close first lets those drain (raft never
// answers what sits in its queue to the state when it shuts down), then shuts raft
// down, then closes the stores.
//
// What we found in raft and raft-wal is in UPSTREAM.md, each finding as it could be sent
// there, with the test that shows it.
//
// No mutex is held across anything that waits: tests run in virtual time, where a
// goroutine that waits for a mutex keeps the clock from moving.
package consensus
