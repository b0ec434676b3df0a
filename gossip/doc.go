// Package gossip is the pool in which the nodes of one cluster notice each
// other: who is alive, suspect, dead or left, where it listens and what it says
// of itself ([Meta]). It stands on hashicorp/memberlist (SWIM with Lifeguard).
//
// # What it promises
//
// Gossip only advises. It never edits raft's configuration, never declares an
// agent dead and never decides who leads; whoever acts on it must be right also
// when it lies, because anybody who holds a key of the ring can forge any member
// (memberlist's stated security model). Agents never hold such a key.
//
//   - A member is named by its node id: a random id that the node persists. It
//     may come back at another address.
//   - [Pool.Watch] gives each reader the latest state of every member that
//     changed since it last looked. There is no queue: a reader holds one number,
//     so a slow one costs nothing, blocks nobody, and misses only states that
//     were already over.
//   - Left is what a member announced itself ([Pool.Leave]); dead is what the
//     others found out. A member that leaves while every link is cut is dead.
//   - A node that was down while the keys were rotated is told ErrWrongKey (and
//     counts it in Stats) once the others use the new key; given that key, it gets
//     in while the old one, under which it still speaks, is installed.
//   - Nothing is written to disk. The keyring is the caller's to persist; a key
//     is never logged, [KeyID] stands for it.
//   - Members of an older incarnation of the cluster still show here: they hold
//     the same keys. Compare [Meta.Incarnation].
//
// # How it works
//
// Two of memberlist's habits shape the package. It announces deaths, but its
// callbacks tell neither suspicion nor whether a member left or died (the state
// in the Node that they hand out is never filled in), and the Nodes that it
// returns are shared with its own writers, a data race. Its table travels whole
// and truly in one place only: the push/pull exchange. So each pool keeps an
// observer, a second, tiny memberlist that has left before it met anybody, has
// no timers, and can dial nobody but its own pool, through a pipe. After every
// callback, and once per probe interval (a suspicion lasts at least four), the
// observer asks for a push/pull, is handed the table by the merge callback,
// copies it and refuses the merge. An exchange takes a fraction of a
// millisecond. The copy is compared with the table of the pool, which is all that
// readers see. Tried and dropped: parsing the log (only the suspicions of this
// node), announcing a departure in the metadata (the death overtakes it), reading
// the packets once more (a second copy of the wire format and of the keys).
//
// Dead and left members stay in the table for an hour, 256 of them at most;
// memberlist itself forgets them after half a minute.
//
// [Pool.Leave] says goodbye twice: by gossip and over streams to some members,
// because a gossiped goodbye reaches few when packets are lost.
//
// [Pool.Run] also joins the known peers again, with back-off and jitter, while
// the pool is alone or a peer is missing: memberlist stops talking to the dead
// after half a minute and would never mend a longer partition. It also calls a
// member that came back at a new address while the old one was still believed in:
// memberlist drops what such a member says of itself, and the member does not
// repeat it.
//
// # Goroutines
//
// Open starts memberlist's own goroutines and one that admits streams. Run owns
// those that watch and rejoin; when it returns, they are gone. Close waits for
// everything that belongs to the pool. Memberlist's Shutdown waits for nothing:
// a probe that is under way ends by its own timer, at most four probe intervals
// later (its handlers of streams end at once, because Close cuts the streams).
// Such a goroutine holds nothing and calls nothing but a closed transport.
//
// # Bounds, and what memberlist v0.6.0 does not let us bound
//
// Bounded here: streams at once (64) and the bytes of each (1 MiB; memberlist
// would buffer 20 MiB before it authenticates them, for any number of streams),
// members (256; others are refused), metadata (512 bytes), queued messages
// (1024 of each priority), lines of memberlist's log. What is refused is counted
// ([Stats]) and logged. Encryption is on from the first packet, and the cluster id
// is authenticated with every message; compression is off.
//
// Not possible with v0.6.0, and open to holders of a key only: a compressed
// message that unpacks to gigabytes is still unpacked (the limit exists in
// v0.7.0, which cannot be built beside raft-boltdb), and a push/pull entry with a
// short version vector makes memberlist panic. Open to everybody who reaches the
// port: packets cost one AES-GCM try per installed key, and all 64 streams can be
// held for the stream timeout each. The port belongs behind the firewall of the
// nodes.
//
// The observer's exchanges count in memberlist's own metrics (tcp.accept,
// tcp.connect); read those with that in mind.
package gossip
