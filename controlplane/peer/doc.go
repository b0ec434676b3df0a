// Package peer is the node's one TLS port and what nodes say to each other over
// it: raft, and the peer service.
//
// # The port
//
// [Port] finishes each TLS handshake itself, under a bound of time and of number,
// and hands the connection to raft, gRPC or HTTP by the protocol that ALPN chose.
// Before the node belongs to a cluster the port has no identity; it then shows a
// throw-away certificate and speaks HTTP only, for /livez and /readyz. When the
// trust bundle changes, every open connection is judged again and those that no
// longer pass are cut: taking a node out of the bundle ends its connections.
//
// A node that is joining is introduced ([Port.Introduce]): whoever asks it for raft sees
// a certificate with its key, and the connection ends there. The leader looks so
// ([Reach]) whether the advertised address leads to the newcomer, before it registers
// it. No trust is needed for that, neither way: the key is in the newcomer's request.
//
// # The preface
//
// A certificate says which node calls. The [Preface] says for which life of which
// cluster, and which node it means: raft itself accepts AppendEntries from a server
// in nobody's configuration, so an old cluster's leader once deposed a recovered
// one and overwrote its log. On a raft connection each side sends one frame before
// a byte reaches raft; on the peer service it goes with each call's metadata and
// comes back with the answer's.
//
// # Connections to peers
//
// [Pool] keeps one gRPC connection to each other node open at all times. It is
// also the alarm: when a process dies its kernel resets the connection, and the
// pool says at once that the peer is gone. Dialling is repeated within a second,
// for ever. An open connection is evidence that the peer is up, sooner than gossip's,
// and what dialling comes to says why one is out of reach.
//
// # Goroutines
//
// Port.Run owns the accept loop and the handshakes; Pool.Run owns one watcher for
// each peer. Both return when their context ends, with all of theirs.
package peer
