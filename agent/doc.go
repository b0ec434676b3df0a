// Package agent composes agentd: it joins the packages below it to a host that runs what
// its cluster asks, each attempt at most once.
//
//	session   keeps one session with one node
//	journal   remembers what was asked, durably
//	execute   runs programs under supervisors that outlive agentd
//	collect   gathers the facts of the host
//	output    sends what programs print
//	cache     keeps what commands bring along
//
// What none of them can own alone is here: the data directory with key, certificate and
// trust bundle; enrolment and renewal; and the worker, in which journal, execute and
// session meet.
//
// # The worker
//
// One goroutine takes deliveries, cancels, confirmations and questions in the order in
// which the node sent them, so that none overtakes another. Whatever stands in the journal
// is answered from it. What does not is judged (order.go); a refusal is journalled as
// NEVER before it is told, a start journals INTENT first (execute). A claim that finds no
// free slot waits in memory, bounded; it comes again with the next session if that is
// forgotten. Each running attempt has a goroutine that waits for its end. A program that
// ends at once is never reported as RUNNING: that saves the cluster an entry.
//
// A delivery may mean the probe of a command instead of its program. It comes with the
// same envelope under a command id that must be the one package wave derives from the
// envelope's; so a node can have nothing run that was not signed, and no agent takes one
// for the other: what a delivery or a command says that agentd does not know is REJECTED.
//
// What a command brings along is gotten from the session's node before INTENT, by a goroutine
// for each order (fetch.go), into the cache; meanwhile a cancel ends it, and a new session
// begins it anew. When it cannot be had within five minutes, or the node says that nobody has
// it, the attempt is REJECTED(no_file). When agentd dies meanwhile nothing has been
// journalled: the delivery comes again, and finds in the cache what had come.
//
// # Undo
//
// The program of a command with an undo is a step with a record of its own (package execute),
// and the undo is the step after the last. When all have succeeded the attempt waits for a
// confirmation: the journal has ARMED with the boot id and the uptime up to which it waits,
// counted from the program's end. What ends the wait is journalled as well, KEPT or the intent
// of the undo, and of these two whichever is first counts, whatever was told or asked. So a
// confirmation that comes when the undo has begun is too late, and the node is told so; likewise
// one that comes after a cancel.
//
// A node tells of an operator's confirmation as it tells of a cancel. By contact it is agentd
// that seeks it (contact.go): by a new connection, begun a second after the program's end, tried
// with pauses until a node that has a leader has answered once. A node on the agent's own host
// proves nothing of the network and is not asked, but where every node known is on it: which
// ones are, the addresses of its interfaces say. The first answer confirms at once: it is asked
// for when the program's change is in force, and to ask again at the end of the window would
// have everybody wait for that.
//
// The undo needs nobody: no session, no cluster, no time but that of the host. It runs at once
// when a program has begun and not succeeded, when it is LOST, and when the command is canceled
// while it waits. After a restart of agentd the rest of the wait is left; after a reboot of the
// host all of it, once: a host that is started anew again is undone at once. What waits holds
// its slot.
//
// A journal that cannot be written holds the undo up until it can, which is tried every quarter
// of a minute: it is what decides. With a journal that was damaged and put aside nobody
// remembers that something waits. When a readmission puts the journal aside, the undo still
// runs at its time, or at once where further steps were to follow, unless agentd ends before or
// contact confirms it.
//
// # Telling
//
// Results are told when they are journalled, again in the Hello of every session, and
// every half minute until they are confirmed. A confirmation counts only when it names a
// journal number at or past the first report of the end: one that was meant for RUNNING
// says nothing about the result.
//
// A dead or full journal starts nothing. REJECTED(no_journal) cannot be journalled then,
// so it is remembered as long as this process lives, and a report of an older session
// changes nothing in the cluster; between them the attempt cannot start after all. A dead
// journal is opened again every half minute. Without a writable journal no new session
// gets Ready.
//
// An attempt with steps holds its slot to the end of the last one, also while the host is
// started anew. Which step is at hand is told with RUNNING, each time when a further one has
// begun and did not end at once; the names and ends of all stand in every report. While a
// program has announced a reboot that has not come, goodbye says so: the cluster then gives
// the agent the grace of a reboot.
//
// # Files of the data directory (mode 0700)
//
//	lock         held by flock while agentd runs; names the process
//	agent.json   agent id, and what enrolment told
//	agent.key    the private key; it never leaves
//	agent.crt    the certificate, DER; it says which key counts
//	agent.key.next  the key of an enrolment that goes on, see below
//	trust.json   the newest trust bundle seen
//	journal/     package journal; journal-old-N are earlier ones, the last three
//	attempts/    package execute
//	blobs/       package cache
//
// agent.json is written with the id before enrolment, so that a repeated enrolment is the
// same one, and with the cluster after certificate and trust: its cluster id says that
// enrolment is complete.
//
// The first journal's floor is the time of enrolment. agent.json notes that it has been
// given before it is given: after a crash between the two the floor is that of a later
// journal, the time of the first Welcome, which is the safe side.
//
// # Enrolling again
//
// After a clone was readmitted, and after the agent was removed, the cluster knows the key
// no more. When a node has said so (nodes do after a read index only), no other node lets
// the agent in, and an operator has given a token with which it has not enrolled yet, it
// enrols again: the same agent id with a new key. The next key is on disk before it is
// shown to anybody, and replaces the old one by the certificate over it; so a crash leaves
// an agent that goes on where it was. One that is confused loses nothing: as long as the
// old key is the registered one, the state machine refuses another.
//
// # Output on the disk
//
// An attempt's directory goes when its result has been confirmed for a day, when there
// are more than 256 such, or when the journal has forgotten the attempt. The journal's
// record goes on to keep it from being started again. A directory of which the journal knows
// nothing stays for as long as the journal remembers things, or for a day after its floor: when an older journal was put
// back, it alone says that the attempt was started, and what became of it. Output that no node
// has taken yet stays longer: until the journal forgets, or there are more than 256 such.
//
// The secrets of further steps and of an undo lie there until the result is journalled. What a
// crash leaves of them after that goes when agentd is started; those of an attempt that the
// journal does not know go with its directory.
//
// # Ending
//
// When the context of Run ends, goodbye is said and everything stops but the supervisors:
// running programs go on and are adopted at the next start. While programs run there is no
// goodbye (unless the host reboots), since the cluster calls an agent LEFT after one.
//
// # Dropped
//
//   - Ending at a dead journal: systemd would start agentd again and again on a full disk,
//     while one that stays up still tells results and says what is wrong.
//   - Carrying open attempts over into a new journal (readmission): the cluster has called
//     them LOST, and the new floor keeps them from coming again.
//   - A certificate that is renewed does not break the session that stands: a session
//     lasts as long as its node lets it.
package agent
