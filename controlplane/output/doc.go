// Package output keeps what programs print beyond the head and tail that a result holds:
// on the disks of enough nodes, and live for whoever follows.
//
// # What it promises
//
//   - A byte that is acknowledged to an agent is fsynced on half of the voters, rounded
//     down, plus one nodes; so it outlives any minority of nodes. The agent keeps its copy
//     until all of an attempt's output is acknowledged.
//   - What is shown was fsynced on the node that shows it. No byte is shown twice, none is
//     left out silently: what is not kept is a gap, with the number of bytes and why
//     (agent_limit, agent_disk, quota, disk_full, lost). Of output above its quota the last
//     part is kept beside the first.
//   - Output never holds up work: a full disk, a full store or a slow peer costs output.
//   - Everything is bounded: the store by bytes and by number of attempts, an attempt by
//     bytes, memory by the number of streams.
//
// # Offsets
//
// The output of an attempt is a list of chunks in the order in which the agent read them.
// The chunks of each of its two streams follow one another without holes, gaps included.
// Whoever has n bytes of stdout and m of stderr can go on with any node, since all bytes
// come from one agent: a place in the output is a pair of offsets ([Ends]).
//
// # Who does what
//
// The agent's session node is where the agent sends output ([Service.Output]). It appends
// it to its store, copies it to as many other nodes as are needed, and acknowledges what
// is on all their disks. When output has ended, and enough nodes have sealed equal copies,
// it proposes one RecordOutput: who keeps it, how long it is, its hash. Output of which the
// result holds everything is neither copied nor recorded. When the agent moves, its next
// node goes on from what it has; if that is less than was acknowledged it asks the others
// first.
//
// # The store
//
// Below DATA/output:
//
//	wal-N                            what was appended lately, of all attempts
//	attempts/INVOCATION@ATTEMPT      the output of one attempt, in frames
//
// One goroutine appends. It takes what waits, writes all of it to the wal, fsyncs once,
// and then writes it to the attempts' files, which are not fsynced now. Each record of the
// wal says at which place of which file its bytes belong, so that replaying it is simply
// writing them again: whatever a crash has left of the files behind the last checkpoint is
// repaired at start. When the wal is large a new one is begun; in the background the files
// that the old one names are fsynced, then it is removed.
//
//	crash before the fsync         the append never was; the agent or peer sends it again
//	crash after it                 the next start writes it to the file
//	crash in a checkpoint          both wals are there and are replayed in their order
//
// The last record of a wal may be torn, which a crash explains; it was not acknowledged.
// A failed fsync ends appending until the process starts anew, since the kernel may have
// dropped what was written; reading goes on.
//
// Files are opened, read or written, and closed: no number of attempts needs more
// descriptors.
//
// # Retention
//
// When a node that keeps output is removed from the cluster, another one that keeps it
// copies it to further nodes and adds them to the record, within minutes.
//
// Output goes when the row of its invocation has gone, and when the result turns out to
// hold all of it. When the store is full, the oldest output that nobody writes goes first;
// if there is none, new output is not kept.
//
// # Goroutines
//
// [Store.Run] owns the appender and the checkpoint; [Service.Run] one pusher for each
// peer, the recorder and the janitor. A stream has its handler, which sends, and a
// receiver, which ends with it. All have ended when Run has.
//
// # Not done
//
// A node that is down for long keeps its part in what is recorded; only when it is removed
// is its output copied from another keeper. A peer that refuses copies because it is full
// is passed over; when there are not enough others the output is kept and shown, but neither
// acknowledged nor recorded.
//
// # Tried and dropped
//
//   - A file for each attempt, fsynced by itself: a thousand agents that print a line each
//     are a thousand fsyncs.
//   - One log for all attempts with an index in memory: reading jumps about, and purging
//     one command means rewriting what others have written.
package output
