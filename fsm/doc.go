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
// A refusal (no such agent, an older epoch) is an outcome and changes nothing but
// index and now; only the refusals "clone" and "journal_behind" of a session put its
// agent into quarantine. A mutation checks everything before it writes its first
// row, so that there is nothing to roll back. The same mutation again changes
// nothing, but for those that take a part each time (ExpireCommands,
// LoseNodeSessions) and for a leader that takes office; that an agent was removed is
// remembered for that ([MaxRemovals]). The machine panics only where going on would let this
// replica differ from the others without anybody noticing: an unknown kind or
// field, a corrupt entry, a format or feature level from the future.
//
// What a node says of a session (ready, facts, reports, its end) is taken from the
// node that holds it and from nobody else, since every node knows every epoch. A
// mutation that names no node is the leader's own word.
//
// What agents and newcomers may write into rows is bounded, so that each row stays
// far below what a record of a snapshot may hold: a row that could be written and
// not be read again would take the cluster with it.
//
// An old token never undoes a later decision: a key that has used it is answered
// for as long as what it made stands, and refused once that was removed, revoked or
// given another key. Tokens are purged some time after they have ended, with their
// uses; then the token is not known any more, which is refused as well, and an id as
// old as a purged one is refused for ever, so that no late repetition brings one back.
// Nothing else hangs on them: which keys a cloned agent had stands in its own row, for
// as long as there is one.
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
// # Locks of a host
//
// A command may name locks, or want the host for itself. A claim is refused ("locked",
// "exclusive") while what is CLAIMED or RUNNING on that agent holds one of its locks, has
// the host for itself, or is in the way of an exclusive one; the state that ends an
// attempt, LOST too, frees what it held. That is all that Apply decides. Who is next is
// the [Turn]'s, which the node of the agent takes and operators are shown.
//
// # Locks of the fleet
//
// A [raftlogv1.Lock] has so many places, in one group or in one for each value of a
// label. A place is held by an attempt, from its claim until it is no longer CLAIMED or
// RUNNING, or by a lease, until it is released or its end and a grace have passed by the
// cluster's time, upon which the leader proposes ExpireLeases. Its fence is the number of
// the grant and grows with each. A claim takes a place of every lock that its command
// names, and of every budget: a lock with a selector that means the agent. It takes all of
// them or is refused. What runs when a budget is made takes places too, even above the
// limit; later changes of labels count from the next claim on. LOST gives a place back
// although the program may still run: whoever must know compares fences.
//
// Places are counted for each lock and group as they are taken, and a claim that needs
// none costs nothing while there are no budgets. There is no queue in the state: a place
// goes to whoever asks first when it is free.
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
// next write copies its path again; Apply reads between almost all writes. With the
// same keys on both sides, 10 000 rows, and three reads and two writes for each
// claim (BenchmarkTables), the typed tables here took 58 µs of CPU against 86 for a
// claim alone in its transaction, and 24 against 64 for one of 64 claims, with a
// third, respectively a ninth, of the allocations; and they let the compiler check
// rows and keys.
package fsm
