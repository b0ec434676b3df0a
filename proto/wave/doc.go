// Package wave decides how work goes over its targets a part at a time: which wave each
// target is in, what is due now, and when to stop. It is the one engine for whatever is
// rolled out, and knows neither commands nor rows: its inputs are counts and times.
//
// # What it promises
//
// Everything here is a function of values: no clock, no random number, no state. The
// same values give the same answer on every node, so that the replicated state itself
// decides with it, inside the very entry that moves a count, and the leader asks the
// same functions only to know when to propose.
//
//   - Waves are cumulative. [Lay] gives each target that is not skipped a rank; the
//     targets of a wave are the ranks up to its end. Shares round up, and are of the
//     targets that are not skipped: hosts that are down do not make a canary larger.
//   - A wave follows only when nothing of those before is in flight and the soak is over
//     ([State.Next] answers Gate; whoever asks then judges the gates).
//   - More failures than the limit are a breach ([State.Breach]), whatever is in flight.
//   - Strict: in flight never exceeds the failures left, so that the limit is never
//     overshot, even when all that runs fails. Nothing left and something still to be
//     released is a breach as well: it could never go on.
//
// # Probes
//
// A gate may be a program that runs where a wave has succeeded. It runs as a command of
// its own with the envelope of the first, whose signature covers both programs.
// [ProbeID] derives its id from the command and the wave: a repetition makes nothing
// twice, an agent can tell that the probe belongs to what was signed, and the id is as
// old as the command's, so that what refuses the one once it was purged refuses the
// other.
//
// # Why here
//
// Three sides must agree on it: agentctl, which reads what was typed; nodes, which decide; and
// agents, which check ids. That is the lowest floor. A wave engine beside the leader's
// loop was tried first: the state may not import it, and a leader that decides alone
// leaves a window between the report of a failure and the stop, in which nodes go on
// claiming (salt#54521).
package wave
