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
// # When a run fails
//
// A run prints its seed first. On failure every log of every process is kept, and
// the test says where. Tests wait for conditions with a deadline, never for time to
// pass. A test whose means are missing on the machine skips and says which.
package e2e
