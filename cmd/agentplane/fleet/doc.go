// Package fleet is many simulated agents in one process, for load and for tests of what
// only shows when there are many.
//
// What is real: every agent has a key of its own, is enrolled with a token, and keeps a
// session (agent/session) over a TCP connection of its own with mutual TLS 1.3. What is
// not: the host. Nothing is executed and nothing is written to a disk; a [Program] says
// how an attempt ends, and the journal is a table in memory.
//
// # What it promises
//
//   - An agent keeps the rules of the real one (DESIGN section 9.4): one start for an
//     attempt, whatever is delivered again; an answer from the journal to a second
//     delivery; a result told until it is confirmed; RUNNING only for what runs longer
//     than 200 ms; what was canceled before it was delivered never starts; what the
//     journal had to forget is refused.
//   - The [Witness] is apart from the journals: it counts the starts of every attempt
//     where they happen, so that it also counts one that should not have been.
//   - Memory is bounded: a journal keeps 256 attempts, the witness what was not forgotten
//     by its owner. An agent takes about 100 KB: half of it is the stacks of eight
//     goroutines, the rest mostly buffers of grpc and crypto/tls.
//
// # Goroutines
//
// [Fleet.Run] owns all of them: the keeper of each agent, and grpc's for each connection.
// Timers of programs that run belong to the agent and end with Run.
//
// # When something dies
//
// A node: its agents go to others, as real ones do, with the same journals. The process:
// everything is gone; the cluster gives the attempts up after lost_after.
package fleet
