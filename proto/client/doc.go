// Package client is how anything reaches a cluster: operators' programs, agents
// that enrol, nodes that join.
//
// A [Client] has a method for everything that an operator may ask for: [Client.Run] a
// [Command] and have its results, [Client.Submit] it and [Client.Await] its end, list,
// cancel, prove. Methods take plain values and return messages of proto/agentplane/v1;
// every error of a node is an [*Error], with a code, a stable reason, what to do next, and
// whether the outcome is known. agentctl is built on this package alone.
//
// It is a grpc.ClientConnInterface, too: the generated clients of proto/agentplane/v1
// run on it unchanged, and a call goes to whichever node answers. A new RPC gets a method
// in the file of its noun (commands.go, fleet.go, members.go, access.go): values in, the
// answer's one part out, [ReadOption]s where it reads.
//
// # Which node
//
// Addresses are tried one after another, beginning with the one that answered
// last. A connection is dialled, and its TLS handshake finished, by this package
// and only then handed to grpc: the bound on it is ours (about a second), and
// its error says what was wrong with the certificate instead of "connection
// error". Each connection lives once; grpc never dials again behind our back.
//
// A node whose process is frozen keeps its sockets open and answers nothing, and
// grpc's keepalive (10 s + 5 s, which the server's policy of at least 5 s allows)
// is slow to notice. So while a call waits and no byte has come for ProbeAfter,
// the connection is asked for a stale Info; when that, too, gets no byte within
// ProbeTimeout, the connection is condemned and everything on it is broken. A
// node that merely holds a call (no leader yet) answers the probe and is left in
// peace. A read is given to the next node after ReadTry even so: it costs
// nothing, and a node cut off from the others holds a read for seconds.
//
// # Sending again
//
// [Client.Submit] chooses the id of a command, by the cluster's time, before it sends
// anything, and leaves it in the Command: submitting that again has one effect.
//
// What a command brings along ([Command.Files], [Command.Stdin]) is named by its hash in the
// command. The cluster refuses one of which it lacks something, with the reason "no_blob" and
// without any effect; then what is lacking is uploaded, through any node, anew with another
// one when that goes away, and the command is submitted again.
//
// A call is sent again only after a broken connection or UNAVAILABLE; every
// write of this API is safe to repeat. What a try that broke has done is not
// known; [Error].OutcomeUnknown says so whatever later tries answer, unless one
// of them succeeds, which gives the outcome. A request that was never handed to
// the connection has done nothing, and a read does nothing ever.
//
// A call ends before its time when every node says that there is no leader, or is not
// reached, and elections have had their time (Leaderless): trying again would only
// make a person wait.
//
// # Reading one's own writes
//
// Answers carry the index their node had applied, in the trailer
// "agentplane-applied-index". The highest one seen goes with later requests as
// "agentplane-min-index", so that another node catches up before it answers. A
// request marked stale does not carry it.
//
// # Trust
//
// Servers are judged by identity.Verifier against the trust bundle, never by host
// name. Answers that carry a newer bundle (Info, Renew, Enroll) replace it and
// the list of addresses; Options.OnBundle hears of it. [Enroll] is the way in for
// those who have only a token: the bundle comes over a connection that nobody
// trusts, is believed for its proof alone, and only a second connection, verified
// against it, is told anything secret.
//
// # Goroutines
//
// Each connection has one goroutine, which dials it and then watches it; Close
// ends and awaits them all. Client and Contexts are safe for concurrent use.
//
// # Dropped
//
// grpc's own balancing (round robin, outlier detection, service configs) spreads
// load and hides which address failed and why; here load is nothing and the
// reason is what a person needs. Hedging a call to two nodes was weighed: it
// halves the wait on a frozen node and doubles every write.
package client
