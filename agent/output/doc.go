// Package output sends what programs print to the node that holds the agent's session:
// live while they run, and to the end when they have ended.
//
// # What it promises
//
//   - What a program prints is on its way within some 200 ms, and is sent in the order in
//     which it was read. What the host does not keep (its limit, a full disk) is sent as a
//     gap.
//   - Nothing here slows a program down, or the session: output is read from the files that
//     its supervisor writes, and goes over a connection of its own. When nodes take it
//     slowly, little is on its way at once, and what is rotated away meanwhile is a gap.
//   - An attempt's output is forgotten only when a node has said Done: enough nodes have it
//     on their disks, or nobody wants it. Until then it is offered to every node that the
//     agent comes to, and goes on where that node has less.
//   - Output that the result holds is not sent at all, unless its program runs long enough
//     to be watched.
//
// # Goroutines
//
// [Sender.Beside] is called for each session, and lives as long. For each stream it has a
// receiver, which has ended when Beside has. Between sessions nothing runs.
//
// # Durability
//
// Nothing is stored here. That an attempt is done is noted in its directory; when the note
// is lost, the output is offered again, and the node says Done again.
package output
