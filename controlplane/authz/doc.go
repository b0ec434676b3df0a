// Package authz decides who may call what. It denies by default.
//
// Every method of the API names its permission in the proto ([Rules] reads them
// from the descriptors; a method without one is denied to everybody), and a role is
// the set of permissions at or below it. [Gate] is the one interceptor that
// enforces this, for calls that come over the port, over the local socket, and for
// calls that another node forwarded: those are judged again by the leader, as the
// identity that the first node proved.
//
// A certificate is needed and not enough: the key that the handshake proved must be
// the one that the replicated registry has for the name. A key that the registry of
// this node does not have may be newer than its state: the gate first catches up
// with the cluster, and only then refuses; while that is not possible the answer is
// UNAVAILABLE, never a refusal.
//
// # Streams
//
// A call is judged when it begins; a stream of an operator is judged again whenever the
// operators in this node's state change ([Gate.Run]), and ends with the words of the
// refusal. One that is stuck in a Send ends when the client takes the message, or its
// connection does. Streams of agents are judged by package dispatch, which follows
// their rows anyway.
//
// A stream goes on when its certificate expires. The dates of a certificate are looked
// at when a connection is made: they bound for how long one counts that nobody asks the
// registry about, and an open stream is asked about all the time. Agents renew their
// certificates over sessions that are older than both.
//
// # Goroutines
//
// Run starts one, which has ended when Run returns. Everything is safe for concurrent
// use.
package authz
