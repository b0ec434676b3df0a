// Package datadir guards the data directory of a node.
//
// [Open] answers a [Dir] only when the directory belongs to this process alone:
// accessible to nobody but its owner, locked against a second process, of one
// node and at most one cluster. It promises further that
//
//   - the node id is random, made once and kept: a host name would come back on
//     another machine;
//   - each Open has counted one more start, fsynced, before anything else of the
//     node opens, so that peers can tell a disk image that was put back
//     (DESIGN section 10);
//   - the directory is bound to the first cluster it joins and to no other.
//
// # Files
//
//	lock             holds the flock; its text is the pid of the last holder
//	node             one frame: node id, cluster id, start counter
//	addresses.json   for scripts: the bound addresses, while the node runs
//
// The lock is flock, which dies with the process, SIGKILL included, and also
// holds between two nodes in one process. The lock file itself is removed by its holder
// alone, and only with the directory ([Dir.Discard]); whoever has opened it before, and gets
// the lock then, sees that the file is another one or gone, and is refused: else it and one
// that makes a new file would both hold a lock.
//
// The node file is replaced as a whole and fsynced. One that is damaged or
// missing beside a boot.state is an error and never made anew: a node that
// forgot its id or counted its starts from one again would be refused by all. Each start has
// a random id beside its number, of which the last 64 are kept: others know by them an older
// disk that has counted as far as the one they have seen. Once they have refused it, that is
// noted, and it is not opened again.
//
// No goroutine is started here. A Dir is safe for concurrent use.
package datadir
