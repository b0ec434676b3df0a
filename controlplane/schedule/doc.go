// Package schedule fires schedules, on the leader: it computes which slots are due and
// proposes each with the command that it makes (DESIGN section 9; "slot" here is an
// instant of a schedule, elsewhere an agent's capacity for one attempt).
//
// # What it promises
//
//   - Each slot is settled once, whichever node leads and however often leaders change:
//     a proposal names the slot, and the state refuses one that is not above the last.
//     The command is made by the same mutation.
//   - While the cluster has a leader a slot is settled within about a second of its
//     time, by the cluster's clock, which never goes back. It fires, or what became of it
//     stands in the schedule with a reason.
//   - Slots at which nobody could fire (no leader, no quorum, clocks that were put
//     forward) count as missed when they are later than [Options.MissedAfter]: they are
//     noted, and the newest of them fires for all where the schedule says so. Less than
//     that is an election, and fires late.
//
// Instants are computed here alone (package timetable says how, also on the days on which
// clocks change). Nodes whose zone files differ cannot disagree about a slot that was
// settled; a new leader computes those after it with its own files. A leader whose files
// lack a zone cannot compute its slots: it says so in its log, and they are missed.
//
// # How it works
//
// [Engine.Run] is the life of one term. It holds for each schedule its timetable and when
// to look at it again, and looks at each when its row has changed or its time has come;
// [NextStep] is the pure decision. Whom a command means is evaluated over the leader's
// applied state ([Planner]), as for a submission, when the slot is due. One proposal is on
// its way at a time, bounded in mutations, bytes and targets; what did not fit follows.
// A proposal whose outcome is not known is not repeated: the state is looked at again, and
// shows whether the slot is settled.
//
// A slot that waits for the end of an earlier command is looked at each second; following
// the feed of all commands for it would wake the leader for every submission.
//
// Schedules without a further slot are marked as ended, and purged when they ended longer
// than [Options.Retain] ago, the oldest first above [Options.RetainCount].
//
// # Goroutines
//
// Run owns one that reads the feed. Both have ended when Run returns.
//
// # What dies when
//
// A leader that dies between computing a slot and the commit has changed nothing; its
// successor computes the same slot from the last settled one. One that dies after the
// commit has fired; its successor sees the slot settled. One that was frozen meanwhile
// proposes under an epoch that is over, which changes nothing.
//
// A schedule that names agents fires for those that are left, and its firing says who is
// not there any more; when none is left it means nobody.
//
// A schedule belongs to the cluster: it goes on when whoever made it is revoked, under its
// own name, and says who made and who changed it. Commands that somebody runs by hand are
// that operator's.
//
// A cluster that was restored from a backup knows nothing of what fired after it was made:
// those slots count as missed, and the newest of them fires again where the schedule says
// so ("once").
package schedule
