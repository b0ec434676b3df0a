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
// LoseNodeSessions, AdvanceRollout) and for a leader that takes office; that an agent was removed is
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
// # Rollouts
//
// A command with waves or with a limit to failures has a rollout: how it goes over its
// targets is frozen when it is submitted, as a rank for each that is not skipped. Package
// proto/wave decides, here and not with the leader, who only proposes to go on
// (AdvanceRollout) when something may be due. Failures are counted in the entry that
// makes them (flush), so that there is no moment in which something failed once too often
// and more is released or claimed: a pause refuses releases and claims, an abort cancels
// what is not claimed and leaves alone what is. What cannot be reached when its wave
// comes, or goes down before it has claimed, is SKIPPED(offline): no wave waits for it.
//
// A probe is a command of its own, made by AdvanceRollout: it has no envelope, since it
// runs another part of its parent's, no brake but its parent's, and is purged with it.
// Gates are asked after the soak, in this order: health, then the probe. When one stays
// shut the command stops; whoever resumes it opens that gate for that wave alone.
//
// # Undo
//
// A command may have an undo, which an agent runs unless what the program did is confirmed
// in time. The agent tells how far that is ([raftlogv1.Undo]); its attempt is RUNNING as long,
// so that no wave settles and no lock is free. An operator confirms what he has seen to wait:
// ConfirmCommand names the index up to which that was, so that neither a repetition confirms
// what came later, nor the first wave's confirmation the second wave. Of confirmation and
// cancel the first counts: after a cancel nothing is confirmed. Whether it came in time
// the agent's journal alone decides: a row that was confirmed and says that its undo has begun
// was confirmed too late. What the agent of a LOST attempt tells of its undo is noted beside it, and
// what is LOST while it waits may still be confirmed, though not canceled: an agent that comes
// back while it waits, as after a long darkness with a reboot, is told, and its word
// supersedes LOST. Unless it is confirmed it is undone then. Phases only grow, and the end of the wait moves once at most, as it does when a host reboots.
//
// # Schedules
//
// Which slots a schedule has only the leader knows, from time zones and a cron
// expression; the state is told the instant of one. [Machine.Apply] holds that each comes
// once: a slot that is not above the last settled one answers what stands, whichever
// leader says so, and the command is made by the mutation that settles the slot. What is
// decided here beside it is what must not race: overlaps with commands that are open,
// pauses, and changes (a firing names the version it was decided on). A schedule
// remembers its last [MaxFirings] firings, and those of open commands in any case. Ids of
// schedules older than one that was deleted are refused, as those of tokens are.
//
// A command with a splay holds each target's claim back ([StartsAt]): the delay is made
// from the ids of command and agent, so that nobody has to remember it.
//
// # Templates
//
// A template has versions, each a row; a version is given once for each name, also when the
// template was deleted meanwhile: of a deleted one the number of its last version stays. To
// put one names the version that it follows, so that no late repetition undoes a newer one.
// How many names and versions are kept is bounded ([MaxTemplates], [MaxTemplateVersions]);
// the versions of which schedules are made stay beside those.
//
// # Blobs
//
// A command names what it brings along, files and input, by SHA-256 and size. For each there
// is a row that says which nodes keep the content; nodes propose it when enough have it on
// their disks. A submission that names what has no row is refused; a row counts the commands
// that name it and are not done, and is forgotten only when there is none: to make room for
// another one, the longest idle first and none within a minute (its uploader is about to
// submit), or when it was idle for as long as the leader says. What there may be arrives with
// the mutation, from the settings of the node that proposes.
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
