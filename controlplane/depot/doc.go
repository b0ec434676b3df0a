// Package depot keeps what commands bring along, files and standard input, from the upload
// until no command needs it any more. Contents are blobs, named by their SHA-256 (package
// proto/blob); a command holds the names only.
//
// # What it promises
//
//   - An upload is acknowledged when the blob is fsynced on half of the voters, rounded
//     down, plus one nodes, and the state has a row that says who keeps it. So it outlives
//     any minority of nodes, and any node says the same of it.
//   - The state refuses a command that names a blob without a row, and keeps the row as
//     long as a command names the blob that is not done.
//   - An agent is sent what a command names of which it has claimed the attempt, and
//     nothing else. Operators are shown no contents at all, and none stands in a log.
//   - Everything is bounded: a blob by 16 MiB, all of them by bytes and by number, uploads
//     and fetches at once by number.
//
// # An upload
//
// The node that the client has reached takes the bytes into its store ([Store]), hashing
// them; copies them to as many other nodes as are needed, voters first; and proposes
// RecordBlob. When it dies meanwhile the client begins again at another node: what lies on
// disks without a row is removed ten minutes later.
//
//	dies before RecordBlob       no row; the client uploads again
//	dies after it, no answer     the row stands; the client is told so by any node at once
//
// A node that is asked for a blob that it lacks gets it from a keeper first, once however
// many agents ask, and keeps the copy as long as there is a row. What a disk has spoilt is
// found when it is sent, and gotten anew.
//
// # The end
//
// A blob of which every command is done is idle. It goes after a while (files.keep: a rerun
// needs it), or earlier to make room for another one, the longest idle first. The leader
// proposes what is due by time ([Service.RunOffice]); the state decides ([fsm.View.IdleBlobs]).
// Each node removes files without a row.
//
// When a node that keeps a blob is removed from the cluster, or the voters become more, the
// first that still keeps it copies it to further nodes, within minutes.
//
// After a restore from a backup the rows are there and the files are not: they name nodes
// that are not of the cluster any more, so that they do not count, and clients upload anew.
// An agent that fetches such a one, for a command from before, is told that nobody has it and
// rejects the attempt. (That all keepers lose their directories and stay is not noticed by the
// state: agents are told then as well, until the row has gone.)
//
// # Why not package output
//
// Output grows while it is read, in streams of many writers, and shares an fsync: it needs
// a log. A blob comes whole and never changes, so a file each is all there is to it. What
// both do alike, choosing nodes and counting them, is a few lines.
//
// # Goroutines
//
// [Service.Run] owns the janitor. Handlers have those that copy, which end with them.
package depot
