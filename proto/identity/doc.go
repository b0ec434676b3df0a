// Package identity holds what both sides of a wire must agree on about who is
// who: names, keys, certificates, the trust bundle, the judgement of a TLS
// handshake, and join tokens.
//
// The registered public key is the identity; a certificate only carries it. A
// certificate is therefore needed and never enough: for nodes the registered
// keys stand in the [Bundle] and [Verifier] compares them; for agents and
// operators they stand in the replicated registry, and whoever serves a call
// compares [Peer].Key with it. A stolen node CA can thus mint certificates but
// nobody that others accept.
//
// # Names
//
// A name is an [ID], written spiffe://CLUSTER/node/ID, /agent/ID or
// /operator/NAME, as the only subject alternative name of a certificate. It is
// checked instead of host names: fleets on premises have no DNS worth trusting,
// and a node is reached under many addresses. The certificate of a node's CA is
// called spiffe://CLUSTER/ca/ID, which is no [ID], so that a CA is never a peer.
//
// # Handshakes
//
// TLS 1.3 only, without session tickets: each handshake proves the key anew. A
// client judges the server strictly. A server lets through three kinds of
// client and marks them in [Peer]: those that are in order; those whose
// certificate has expired or was issued by a CA that is not (or no longer) in
// the bundle, which may call only Renew ([Peer.RenewOnly]); and those without
// any certificate, which may only enrol ([Peer.Anonymous]). What CAUnknown
// marks is a mere claim: nothing but the possession of the key was proved. The
// raft protocol is the exception, where only nodes in order get past the
// handshake.
//
// "Expired" covers "not valid yet" too. A certificate from a node whose clock
// ran a year ahead would otherwise lock its agent out for a year, while Renew,
// which is authorized by the registered key, costs no safety.
//
// By which clock: a machine's wall clock may be set wrong, and the cluster's
// time may once have followed a majority of wrong ones. A certificate is in
// its time when any moment between the two is, where a node or an agent knows
// both ([Moment]): a clock that is set back by an hour would otherwise refuse
// each operator and each node whose certificate is younger than that. Who can
// set a node's clock gains nothing that it had not before; an agent has the
// cluster's time of nodes that it trusts.
//
// [Verifier.Peer] and [Verifier.Server] may be asked again at any time about an
// open connection: the answer follows the bundle and the clock of that moment.
//
// # Join tokens
//
// A token is apt1.ID.SECRET. From SECRET two keys are derived with HKDF: one
// authenticates the bundle towards a newcomer that trusts nobody yet ([Prove],
// [Token.OpenBundle]); the other authenticates the newcomer ([Token.Authenticator])
// and is sent only over a connection verified against that bundle. The cluster
// stores a [TokenRecord]: the first key and a hash of the second. Whoever reads
// the replicated state can deceive the newcomer of an open token but cannot use
// the token.
//
// # Keys
//
// Keys are Ed25519: small, fast, without a random number in each signature.
// ECDSA P-256 keys are accepted wherever a key is read: not every browser speaks
// Ed25519 in TLS, and a leaf for those must be possible without changing what
// peers accept.
//
// # Durability and concurrency
//
// [ReplaceFile] is durable and atomic when it returns nil. All values are
// immutable after creation and safe for concurrent use, [Verifier] included. No
// goroutine is started here.
//
// # Left out
//
// The private certificate extension with a JWT of labels or roles is not built;
// verification ignores non-critical extensions, so adding it breaks nobody.
// x509 host names, revocation lists and OCSP are not used: the bundle and the
// registry revoke at once.
package identity
