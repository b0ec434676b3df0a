// Package rollout brings every command to its end, on the leader: it releases what
// waits (a submission releases its first wave itself), expires what was not claimed in
// time, gives up what nobody can know, and purges what is old (DESIGN section 9).
//
// # What it promises
//
//   - Every invocation ends (I3): what is not claimed by not-after expires; what is
//     claimed ends within [Patience.Bound] of the later of its claim and the
//     beginning of the term, unless its agent has answered. The wait for a confirmation and
//     the undo are parts of that time, whenever the agent tells of them.
//   - Nothing is called LOST early: the waiting is counted by this leader, while in
//     office and awake. A new leader counts anew, since nobody could report while
//     there was no leader. The cluster's time only says how long a program has run.
//   - Every proposal names what it was decided on. A refusal means that the state has
//     moved: it is looked at again.
//
// # How it works
//
// [Engine.Run] is the life of one term. It lists the open commands and the claimed
// attempts of the replicated state, then follows the change feed. For each open
// command and each claimed attempt one item lies in a queue, ordered by when to look
// at it next; a change moves the item to now. Looking reads the current state and
// calls a pure function ([NextStep], [Patience.Judge]): it answers a mutation, or when
// to look again. Up to 128 mutations that together touch about ReleaseMax rows go into
// one proposal, and one of them expires up to 1000 commands: small commands may come by
// the thousand a second, and what ends them must not fall behind. So a tick costs what is
// due, never what exists; memory is bounded by open commands and claimed attempts.
//
// Everything due at once is released as one wave, unless the command has a rollout.
//
// # Rollouts
//
// Package proto/wave says from a command's row when something of a rollout may be due;
// this leader then proposes AdvanceRollout, which names the wave and the count it was
// decided on, and the state asks the same engine again, and the gates. So a new leader
// goes on in mid-wave by reading rows, two leaders release nothing twice, and nothing
// here keeps a rollout from stopping: failures are judged by the state, in the entry that
// counts them. Large waves are released in pieces; a probe begins in one, since its
// targets are frozen with it.
//
// # Purging
//
// Finished commands are purged when older than Retain, and the oldest of them when
// more than RetainCount are finished: at most 1000 by the entry that also expires others,
// and no more rows than that has left. Purging and the rest take the first place in an
// entry in turn. Removing a hundred times more rows at once would stop the state for
// everybody and flush the change feed.
//
// Tokens are purged in the same way, once a minute: those that expired, were used up or
// revoked longer than RetainTokens ago, and the oldest of them above RetainTokenCount.
//
// # Leases
//
// Leases of locks that were not renewed end within a second after their grace, up to 1000
// by one mutation, in which the state looks which they are. A new leader goes on by the
// cluster's time: nobody's lease begins anew.
//
// # Goroutines
//
// Run owns one that reads the feed and one for each proposal, of which there is one at a
// time. They have ended when Run returns. While a proposal waits for its answer, the feed
// is read.
//
// # Tried and dropped
//
// A timer for each attempt: ten thousand timers that are moved by each session change.
// Walking the open commands each second: it costs most when there is most to do.
package rollout
