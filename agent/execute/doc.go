// Package execute runs one attempt of an invocation on this host, at most once,
// whatever is killed when, and tells how it ended.
//
// # Who does what
//
// agentd journals the intent, makes the attempt's directory, and starts a supervisor:
// the same binary, called as "agentd supervise DIR" (see [SuperviseMain]), in a session
// of its own so that it outlives agentd. The supervisor starts the program, keeps its
// time, takes its output, and writes down how it ended. agentd waits for the
// supervisor's end, or adopts it after a restart, and journals the result.
//
// # At most one start
//
// The order is: INTENT fsynced in the journal; mkdir of the directory, its parent
// fsynced; fork. mkdir is the decision: it succeeds once, and only the call that made
// the directory forks, in the same life of agentd. A directory that is there starts
// nothing, whatever the journal says; an intent without one starts nothing either.
//
// The directory's lock (flock) is taken by agentd before it forks and handed to the
// supervisor as an open file, so there is no moment between fork and lock: it is held
// from the supervisor's birth to its death, and held means alive. A supervisor that has
// not got the lock, or finds that one has begun here, gives up.
//
// The program is started through a gate: the supervisor forks itself again, writes
// STARTED (pid, start time, boot id) and fsyncs it, and only then lets the child, which
// waits at a pipe, exec the program in its place. If the supervisor dies earlier the
// pipe closes and the child leaves. So nothing ever runs that STARTED does not name,
// and "not STARTED" is proof that it never ran.
//
// # Files of an attempt (ROOT/INVOCATION@ATTEMPT, mode 0700)
//
//	lock            see above
//	spec            what to run, and the boot id under which it was asked
//	script          the script, when it is one
//	secrets         what goes into the environment and is shown to nobody; the gate removes
//	                it before it becomes the program
//	file.N, stdin   what the command brings along, as far as it is not in its place yet
//	begun           made once by the supervisor
//	started         STARTED
//	cancel          there when a cancel was asked; control is a fifo that says "look"
//	alive           a fifo held open by the supervisor: end of file means look at the lock
//	output.N        output in frames; 0 is the head, the highest are the tail
//	exit            the result, complete and fsynced before it gets this name
//	supervisor.log  what a supervisor says when it fails
//	kept            there when the cluster has taken all output, or wants none
//	placing         there when a file of the command may be in its place
//	reboot          there when the program has announced a reboot of the host
//	plan, later     what all steps are, and their secrets; only of an attempt with steps
//	undo            there when the attempt has an undo, whatever becomes of the plan
//
// # Steps
//
// An attempt may be a list of steps: programs of which each begins when the one before has
// succeeded. Each has all that a program has: an intent in the journal (STEP_INTENT), a
// directory, a supervisor, a result in the journal (STEP_RESULT); so that each is started at
// most once, by the same means. The directory of the first is the attempt's, that of step N
// is ROOT/INVOCATION@ATTEMPT.N. The records of an attempt are
//
//	INTENT, STEP_INTENT(1), STEP_RESULT(1), STEP_INTENT(2), STEP_RESULT(2), …, RESULT
//
// of one without steps INTENT and RESULT. What all steps are lies in the directory of the
// first, fsynced before the first supervisor, so that a later life of agentd goes on alone:
// a last record STEP_RESULT of a success is followed by the next step, a STEP_INTENT is
// adopted with its directory, and one without a directory is LOST(agent_restart) as an
// INTENT without one is. Their secrets lie there until the attempt has its result;
// [Runner.ForgetSecrets] removes those that a crash has left after that.
//
// The first step that does not succeed ends the attempt with its state and reason; the
// detail names it. Where a further step could not even be tried, the attempt is FAILED, not
// REJECTED, for some of it has run. A cancel between two steps is CANCELED.
//
// Output is one stream: offsets of a step go on where the one before ended. The bound is
// divided among the steps, but each keeps the least that there is.
//
// # Reboots
//
// A program announces a reboot of the host by making the file that AGENTPLANE_REBOOT names,
// in its directory. The supervisor looks for it every second and when the program ends, and
// makes it durable (fsync of the directory and of the output); an orderly reboot, which
// syncs, needs no such luck. What only the reboot decides is then waited for:
//
//   - When the host is started anew (its boot id is another) while the program runs, or after
//     it had ended with 0, or was killed by a signal as everything is on a host that goes
//     down, it has SUCCEEDED(rebooted), and the next step begins.
//   - When it has ended so and no reboot comes within [Options.RebootWait], by the host's uptime,
//     it has FAILED(no_reboot), or as it had ended. Until then [Run.AwaitsReboot] says so.
//   - One that ended with another exit code, was canceled, or used up its time is what it is.
//
// A cancel ends the wait. A reboot that was not announced is LOST(reboot). This holds for an
// attempt without steps, too, and for the last step: the end is told when the host is back.
//
// Output that a program prints in the last moment before the power is cut, without a sync,
// is lost, also when a node has it already: then the output of the next step seems to begin
// earlier than it did, and nodes do not take what they think to have.
//
// # After a restart
//
// [Runner.Adopt], for the step at hand: lock held, the supervisor lives: wait for it. exit there: that is the
// result. Otherwise agentd, holding the lock, kills what is left of the program and says
// LOST: reboot when the boot id is another, or spec is empty, since only a cut of the power
// takes what it held; supervisor_gone when a supervisor had begun,
// agent_restart when none had or there is no directory. It kills only what is provably
// this attempt's: the very process that STARTED names by pid, start time and boot id,
// with its session; and, when that one is gone, members of the session that carry the
// attempt's variables in their environment. A pid used again is never killed.
//
// What the disk does not give of an exit or a STARTED is tried again for a minute before the
// attempt is LOST. A STARTED that is there and cannot be used counts as one: what may have been
// let go is not let go again.
//
// # How programs end
//
// The run timeout is counted by the supervisor on the monotonic clock. Timeout and cancel
// send TERM (and CONT) to the process group and KILL after the grace; what came first is
// the state, and a program that had ended before keeps its own result. The gate counts
// as the program until it has exec'd.
//
// When the program's main process has ended, the rest of its session (its process group
// and those a shell made inside it) gets a second to finish and to close the output, then
// TERM, the grace, KILL, as systemd does with what is left of a service. Who wants to
// stay must leave the session (setsid, a service manager). Such a process may still hold
// the output open; it is read for a moment more, then closed.
//
// A program that cannot be started is FAILED as a shell would say: 127 not found, 126
// not executable or no such working directory; Started is false. When the host cannot
// even try (no space for the directory, no process) the attempt is REJECTED, and the
// program has provably not run.
//
// # What a command brings along
//
// Files and standard input lie in agentd's cache when an attempt is started. agentd links
// them into the attempt's directory, so that nothing that becomes of the cache matters to it.
// The supervisor, once it has begun, puts the files in their places before it forks: each is
// written under another name beside its place, compared with its hash, given its mode and
// fsynced; when all are, they are renamed, in their order, and the directories fsynced. A
// file that is there is replaced, a symbolic link as well; directories are not made; the owner
// is agentd's user.
//
// When one cannot be written (no such directory, a read-only or full file system, a directory
// in its place) nothing has changed on the host, and the attempt is FAILED(not_placed) with
// Started false; the detail names the file. Only a rename that fails though everything before
// did not, or the death of the supervisor between two, leaves some files new and others old:
// each is whole, and the detail says how many, or the attempt is LOST. The program has then
// not run. The file under the other name is removed with the attempt that is LOST.
//
// Standard input is that very file, compared with its hash before anything is put in place and
// then opened, so that a program may seek in it. One that the disk has spoilt makes the attempt
// FAILED(not_placed), too. It is removed when the program has it; a program without input reads /dev/null.
//
// # Undo
//
// An attempt may have an undo: a program that takes back what the others did. Then its only
// program is a step, too, so that its end is journalled before anything follows from it; the
// undo is the step after the last, with a directory and a supervisor of its own, started at
// most once by the same means. Its record's name is the cause for which it runs. It gets
// neither files nor standard input: they are of the first step.
//
// When all steps have succeeded the attempt waits ([Run.Wait] does) until it is kept, canceled,
// or its time is over, which is counted by the uptime of the host (CLOCK_BOOTTIME) from the
// program's end, also over restarts of agentd. Under another boot id it begins anew, once. When
// a step has begun and not succeeded the undo runs at once; likewise when no program was let go,
// but a file may be in its place: that is marked (placing), durably, before the first rename.
// Nothing of this asks anybody: the plan lies in the first step's directory, and the journal is
// asked for what it has. The undo itself cannot be canceled.
//
// Of a step whose intent is journalled and whose program was not let go, nothing is started
// later; of the undo it is, since a host that waits for it has nobody else: a directory without
// a living supervisor and without STARTED is taken away and made again. That is tried for half
// a minute, as when there is no process or space for it.
//
// The journal may be another one by now, which knows nothing of the attempt ([ErrNoRecord]).
// Then nobody is told how it ends, and no further step begins, but it is undone all the same: at
// once when steps were to follow, or at the end of its wait. What keeps it from that is decided
// in this life of agentd alone.
//
// A plan that cannot be read at the moment is read again, as often as Wait is called. Of one
// that is damaged no undo can be run: then what had succeeded is FAILED(undo_failed).
//
// # Output
//
// stdout and stderr are separate pipes, stored in the order in which they were read.
// The pipes are always drained, so no bound ever blocks the program. Kept are the first
// 64 KiB and the last part up to the limit, in rotating files; a result carries the first
// and last 4 KiB. Memory does not depend on how much is written. A full disk stops the
// storing, not the program; what is missing is counted.
//
// [Runner.Tail] reads the stored output while it grows. Each frame says where it begins in
// its stream, so that a reader whom the rotation overtakes knows how much it has missed.
//
// # Ownership
//
// The Runner has no goroutines: [Run.Wait] does the waiting and is to be called until it
// has given the result (it also reaps the supervisor). A Run may be left at any time; the
// supervisor goes on and can be adopted.
//
// The unit that starts agentd must leave supervisors alone when it stops (systemd:
// KillMode=process). They do not end by TERM, INT or HUP.
//
// # Dropped
//
//   - Ptrace or a parent-death signal instead of the gate: the first is forbidden in
//     many containers, the second is bound to a thread and does not reach grandchildren.
//   - Reaping all descendants (child subreaper): it would kill daemons that somebody
//     starts on purpose.
//   - Waiting by a blocking flock: it cannot be interrupted and holds a thread.
//   - A supervisor that goes on to the next step by itself: then the journal would not say
//     what has begun, and a reboot would need somebody else to go on.
//   - Starting a step whose intent has no directory: it would be safe as long as nobody
//     takes directories away, and a journal that trusts its own records only needs no such
//     condition.
package execute
