// Package fsm is the replicated state of agentplane: a pure, deterministic
// machine that turns entries of the log into tables and a feed of changes.
//
// # What it promises
//
// The same entries at the same indexes give the same rows, outcomes, changes and
// hash on every replica, whatever the build, the machine or the time of day. The
// package reads no clock, draws no random number, starts no goroutine and lets no
// map order show: ids and random choices arrive in mutations, and the only time is
// the entry's now, of which the state keeps the largest it has seen.
//
// A refusal (no such agent, an older epoch) is an outcome and changes nothing. A
// mutation checks everything before it writes its first row, so that there is
// nothing to roll back. The machine panics only where going on would let this
// replica differ from the others without anybody noticing: an unknown kind or
// field, a corrupt entry, a format from the future.
//
// # How it is kept
//
// Each family (nodes, tokens, agents, sessions, commands …) is a table of
// protobuf rows, ordered by key, with the indexes that its readers need. Rows are
// immutable once stored: a change stores a new row. Tables are copy-on-write
// B-trees ([github.com/tidwall/btree]): when an entry has been applied, the tables
// are copied in constant time into a [View], and view, published index and feed
// move on together. A View never changes, needs no lock, and holds back nothing: a
// snapshot is a walk over one while entries go on being applied.
//
// One goroutine (raft's) calls Apply and Restore; everything else may be called
// by anybody at any time.
//
// # Reading and watching
//
// [Machine.View] is the state now; [Machine.ViewAndWatch] adds the cursor from
// which [Machine.Changes] goes on without a gap. The feed is a ring bounded in
// changes and bytes: whoever falls behind it is told the index up to which it was
// compacted, and lists again. A restore from a snapshot empties the ring, which is
// what compacts it.
//
// # Numbers
//
// Leader epochs, session epochs and fences are the number of the mutation that
// granted them: incarnation, index and ordinal in one uint64 (raftlogv1.Number).
// They grow along the log and across incarnations, and two never collide.
//
// # Tried and dropped
//
// hashicorp/go-memdb keeps tables too, by reflection-like indexers over any. In a
// write transaction each of its reads clones the radix transaction, so that the
// next write copies its path again; Apply reads between almost all writes. The
// typed tables here do a claim (three reads, two writes) about four times faster
// (BenchmarkTables) and let the compiler check rows and keys.
package fsm
