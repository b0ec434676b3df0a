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
// It starts no goroutine and is safe for concurrent use.
package authz
