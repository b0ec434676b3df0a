// Package operator is what operators and newcomers call: the services for the
// cluster, its commands, its fleet, tokens, operators and enrolment.
//
// # What it promises
//
// A write is one mutation, whatever it touches. It carries an id chosen by the
// caller or is idempotent by state, so that sending it again answers what stands.
// An answer is taken from this node's own state after that state has published the
// outcome's index. Every refusal is a gRPC status with an ErrorDetail: a stable
// reason for programs, a sentence for people and, where there is one, the next
// thing to type. One table (refusal.go) says which code an outcome
// becomes; an outcome that is not known is said as such and never guessed.
//
// Reads are linearizable unless they ask for stale ones. Watches begin with a copy
// of this node's state and go on by the feed's cursor without a gap; a reader that
// fell behind the feed, or whose node restored a snapshot, gets a copy again. The stream
// of an operator who is revoked meanwhile ends (package authz).
//
// # Who runs what
//
// Somebody else has authenticated and authorized the caller, and brings methods
// with the option on_leader to the node that leads. Leadership may end at any
// moment all the same: then Propose says so, and the status carries the reason
// "not_leader", upon which the first node asks the next leader. Everything that
// must not race (ids, uses of tokens, versions) is decided by the state machine;
// what is checked here only gives better words earlier.
//
// # Submit
//
// The bytes of the envelope are stored as they came, since signatures cover them.
// They are read strictly: an unknown field, also inside the spec, is refused, for
// an agent of another version could understand it. The selector is evaluated over
// the leader's applied state, which holds everything acknowledged before, and the
// list is frozen in the mutation. A command that stands already is answered before
// anything else is looked at: its list is the first one's.
//
// # Waves
//
// What a rollout needs to know of agents is frozen here as well: the order (a random one
// is drawn, a coverage one computed, and what it cannot cover said in notes) and who has
// the label that a wave names. Who is in which wave is left to the state, which alone
// knows who is skipped. Plan makes the same mutation on any node and lays it out on a
// linearizable view instead of proposing it.
//
// # Undo
//
// What a command does that has an undo is kept by ConfirmCommand, which those may call who may
// submit: whoever could run the same once more may as well keep it. The caller says what he has
// seen to wait, all of it or that of some agents. The answer says what is asked of the agents;
// what became of it they tell. The run timeout that a submission carries is that of the whole
// attempt: with the time for a confirmation, twice, and that of the undo.
//
// # Lists and proofs
//
// ListCommands filters here, so that nobody fetches a history to find one command; a call
// looks at a bounded number of rows and says where the next one goes on. Why tells of each
// step what it was and who decided it: the operator who submitted or canceled, the node that
// claimed, the agent that ran it, or the cluster by what stood in its state. A command that
// runs an earlier one again names it and the states that are meant; whom that is, is decided
// when the leader takes it, and frozen like any other list.
//
// # Templates
//
// A command that says from which version of a template it was made is held to that: filling
// the template with its arguments has to give the very program and limits (package
// template). RunTemplate, for those who may run nothing else, takes no command that says
// anything which nobody has looked at yet.
//
// # Secrets
//
// Secret values of a template's parameters lie in the envelope, which is what agents run,
// and so in the log and the snapshots of nodes. No answer holds them, nor, of such a command,
// the hash of its envelope, by which guesses could be tried.
//
// Of a token only what is derived from its secret arrives here, and nothing of that
// is ever put into an error or a log line. Without the right authenticating half
// nobody learns whether a token is spent, revoked or not there at all.
//
// # Health
//
// [Health] is a view made of an agent's row and its session. SUSPECT is a session
// whose agent has not journalled its epoch within [SuspectAfter]; FLAPPING is one
// whose agent was granted three sessions within [FlapWindow] of its own doing: moves that
// the death, the restart or the drain of a node causes do not count. Heartbeats are not in
// the state and are not seen here.
//
// # What is wrong
//
// Status names each problem with one command ([Cluster.Status]), by evidence: a node of
// which nothing is seen or heard is not up, and one whose connection has just broken is said
// to be silent before gossip calls it dead. On a node that was started without the others
// the state is empty; then members come from raft's configuration and the trust bundle.
//
// # Ownership
//
// The package starts no goroutine but those of its callers' streams, holds no lock
// and keeps nothing on disk. All methods may be called at once.
//
// # Tried and dropped
//
// Answering an unknown token with a proof by a random key: it hides whether the
// token exists, but the newcomer is then told that somebody sits between, and the
// bundle with all addresses goes to anybody who asks. A refusal that looks the
// same in every case hides as much.
package operator
