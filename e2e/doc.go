// Package e2e tests agentplane from outside: it builds the binaries, starts real
// processes, breaks things (kill -9, pauses, full disks, damaged files) and judges
// what clients and programs saw. It holds only tests and what they share; nothing
// imports it.
//
// # What belongs here
//
// What needs a kernel: process death, sockets, files, certificates on disk. What
// can be shown in virtual time is shown beside the package it is about, where it
// costs milliseconds. The rules about the project itself (floors, folders, package
// comments) are here too, because this is the one floor that may see all others.
//
// # Short and full
//
// Every test has a short form, which go test ./... runs. With AGENTPLANE_E2E=full
// in the environment, which make e2e sets, the tests run for as long and kill as
// often as the promises ask.
//
// # Who judges
//
// Nothing is judged by what the product says of itself alone. Programs that agents run
// are this test binary under another argument: each start adds a line to a file that the
// product knows nothing of, durable before the program goes on. Clients note what they
// were told. When all is over a pure function compares these with what the cluster
// shows; it is tested with histories that break each promise. Whether reads and writes
// through all nodes form a linearizable history is judged by porcupine
// (github.com/anishathalye/porcupine, MIT, no dependencies), which etcd's robustness
// tests use; unknown outcomes stay open to the end of the history.
//
// # When a run fails
//
// A run prints its seed first; AGENTPLANE_E2E_SEED runs the same faults again. On failure every log of every process is kept, and
// the test says where. Tests wait for conditions with a deadline, never for time to
// pass. A test whose means are missing on the machine skips and says which.
package e2e
