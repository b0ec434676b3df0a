// Package journal is the agent's durable record of what it was asked to do: which
// attempts it may have started, which it will never start, and how each ended.
// "At most once" rests on it: nothing is started that is not written here first,
// and what is written here is never started again.
//
// # Promises
//
//   - A nil error from an appending method means that the record is on disk: the
//     bytes were written and fsynced, and so was the directory that names the file.
//   - After any crash, Open finds every record that was acknowledged. One that was
//     not acknowledged is there whole or not at all.
//   - The first failure of a write or an fsync kills the journal: from then on every
//     append answers [ErrJournal] and nothing can be started. After a failed fsync the
//     kernel may have dropped the pages and call the next fsync a success, so there is
//     no second try in this process. Reading goes on.
//   - One process per directory, by flock.
//   - Each record has a number (seq) that only grows, also over compaction. A node
//     compares id, seq and the last session epoch (prev) with what it has seen, and so
//     notices a wiped disk (another id) and an image put back or cloned (behind).
//
// All methods may be called at once. Appends go one after another, each with an
// fsync; lookups never wait for the disk of an append. There are no goroutines.
//
// # Files
//
//	lock           held by flock while the journal is open
//	journal-N      the journal; N grows by one with each rewrite
//	journal-N.tmp  a rewrite that has not finished; removed by Open
//	aside-N/       a journal that was damaged, kept to be looked at (the last three)
//
// A journal file is a header frame (format, id, seq, floor, epoch, count), then count
// frames with one attempt each, then one frame per append (package frame). Each frame
// names the journal's id, and each append the seq it continues, so that a frame which
// is missing, doubled or foreign is noticed. Header and attempts are fsynced before the
// file gets its name; therefore only the last append can be torn by a crash.
//
// Format 2 added the steps of attempts, format 3 their guards; files of older formats are
// read for ever, and written anew as ones of the newest.
//
// Open always writes the file anew (temporary file, fsync, rename, fsync of the
// directory) and appends to that. What it read may stand in the page cache only, since
// a process that died before its fsync, or after a failed one, leaves such pages; to
// act upon a record that a power cut can still take back would be a lie about seq.
//
// # Steps
//
// An attempt of several programs has beside its INTENT and RESULT two records for each
// step: STEP_INTENT before anything is done for it, and STEP_RESULT when it has ended. They
// come one after the other, and a further step only when the one before has its result. The
// number of a step may pass over some: what comes after all of them, whichever ended the
// attempt, is the step after the last. They are always taken, as results are: what has
// begun is to be brought to its end.
//
// # Guards
//
// An attempt with an undo has ARMED when its steps have ended and it waits for a confirmation,
// and once more when the host was started anew meanwhile. What ends the wait is KEPT or the
// intent of the undo, the step after the last: whichever is journalled first makes the other
// one impossible. There is no third that would decide between them.
//
// # What a crash explains, and what it does not
//
// A bad frame is taken for the interrupted last append, and cut, only if it may be one:
// it lies behind the counted attempts, is no larger than an append can be, does not say
// of itself that it ended before the file did, and no whole frame of this journal
// follows. A flipped length in the middle of the file is thus not mistaken for a torn
// end. Everything else is damage: the files go to aside-N, a journal with a new id is
// begun, and [Journal.Opening] says so. Bit rot in the very last append cannot be told
// from a crash; if that append had been reported, the node sees that seq is behind.
// A file of a newer format is neither: Open refuses and touches nothing.
//
// # Floor, forgetting, bounds
//
// The floor is a cluster time: a command submitted before it may have been here and be
// forgotten, so Intent refuses it with [ErrForgotten]. A new journal has no floor until
// SetFloor and takes no Intent before (the time of enrolment for an agent's first
// journal, the time of Welcome for any later one). [Journal.Forget] drops records whose
// time is over and raises the floor past them in one atomic rewrite; attempts without a
// result are never dropped. Output of confirmed results is dropped after a day.
//
// Size and number of records are bounded, and Intent is refused ([ErrFull], not
// deadly) while the disk has less free space than a reserve, so that results and
// refusals still find room. In memory a record costs some 400 bytes; output stays on
// disk and is read when asked for.
//
// # Dropped
//
//   - Several segments: what is live is small, and a rewrite of one file has fewer
//     states than a chain of files, some of which hold only garbage.
//   - Group commit: an agent has a handful of slots. Confirm takes many keys instead.
//   - Leaving CONFIRMED without fsync: several unsynced frames could then tear in the
//     middle, and torn could no longer be told from damaged.
//   - A STARTED record: the supervisor's directory has it, written by the only process
//     that knows.
package journal
