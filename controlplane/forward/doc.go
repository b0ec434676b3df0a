// Package forward lets any node do what only the leader can: propose, run a read
// round, run an operator's call.
//
// A [Forwarder] knows two ways, this node's own consensus and the connections to
// peers, and takes the one that leads to the leader: one hop, never two. While no
// leader is known it holds the caller, for at most Hold and inside the caller's
// deadline; elections take less. Where nobody has led for longer than that, it answers
// after a moment: a caller whose client tries again would wait for Hold each time.
//
// # What an error means
//
// Nothing here is tried again unless it is known to have done nothing, or is
// repeated with the same content, which every mutation of agentplane allows. When
// one try's outcome is unknown and no later try gives the outcome, the whole call
// is unknown ([ErrUnknown]), whatever the later tries answered: the entry of the
// first may still commit.
//
// # Reading
//
// [Forwarder.Read] answers an index that holds every write acknowledged before the
// call; followers ask the leader. Whoever then waits until its own state has
// published it reads linearizably.
//
// A follower's reads share what they ask ([consensus.Rounds]): a read joins only a
// question that is sent after it arrived, and at most two are on their way. The
// question ends when it is answered or when no read waits for it any more, on a
// goroutine of its own.
//
// A call to another node is let go as soon as that node no longer leads, and then
// repeated at the next leader.
//
// Each call to another node has one goroutine beside it, which ends before the call
// returns. All methods may be called at once.
package forward
