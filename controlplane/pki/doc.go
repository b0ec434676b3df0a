// Package pki holds what a node does with certificates and trust: its own CA,
// its own leaf, and boot.state.
//
// # CA
//
// Each node has a CA of its own, whose key never leaves the node's directory and
// whose certificate is one entry of the trust bundle ([CA]). It issues
// certificates for agents, operators and the node itself over a public key that
// the caller has found registered: the CA decides nothing. What a stolen CA can
// do is bounded by the bundle and the registry (package identity): it can carry
// a key, not register one. The name constraint to the cluster, the path length
// of zero and the name spiffe://CLUSTER/ca/NODE are checked by everybody who
// takes a bundle.
//
// A CA certificate is backdated by a year, because its dates protect nothing
// (the bundle says who is trusted since when) while a machine whose clock is
// corrected backwards after its first start would otherwise be locked out.
//
// A leaf is valid from five minutes before the wall clock says it is issued. Where the
// cluster's time is another, its validity reaches out towards that by up to a quarter of
// its life: of a node whose clock was set wrong others take certificates all the same.
//
// # Leaf
//
// [Leaf] is the node's certificate for both sides of TLS. It is issued anew at
// each start and at half of its life, needing nobody, and never stored: there is
// nothing to lose. A handshake that finds it due renews it first, so that a
// machine that slept past the end of its certificate does not show it.
//
// # boot.state
//
// [BootState] is what the node trusts before its replicated state has caught up.
// The file has two frames: what the cluster decided, and what the node remembers
// of its peers. Both are JSON, so that an operator can read them with a pager;
// each frame has its checksum, and the file must be both frames and nothing
// else, so that every truncation and every flipped bit is an error. It is
// replaced atomically and is durable when Store returns.
//
// The first frame alone is what nodes give each other ([BootState.Share]). The
// memory of peers is never taken from anybody: a node that believed others there
// could be talked into refusing a healthy peer.
//
// # Goroutines
//
// None is started here; [Leaf.Run] is the caller's. CA and Leaf are safe for
// concurrent use, a BootState is never changed once made.
package pki
