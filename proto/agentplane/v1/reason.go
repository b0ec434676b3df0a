package agentplanev1

import "slices"

// Reason is a word that says, beside the state of an attempt, why it is so: one stable
// word for programs. Sentences for people stand in the detail.
type Reason struct {
	Word string
	// States are those that it stands beside.
	States []AttemptState
	// Means says what happened, and Next what may be done about it; Next may be empty.
	Means, Next string
}

// Reasons are all reasons of invocations and their transitions, by state and word. A test
// holds the table complete.
func Reasons() []Reason { return slices.Clone(reasons) }

// ReasonOf finds the row of a word beside a state.
func ReasonOf(state AttemptState, word string) (Reason, bool) {
	i := slices.IndexFunc(reasons, func(r Reason) bool { return r.Word == word && slices.Contains(r.States, state) })
	if i < 0 {
		return Reason{}, false
	}
	return reasons[i], true
}

func states(s ...AttemptState) []AttemptState { return s }

const (
	skipped   = AttemptState_ATTEMPT_STATE_SKIPPED
	expired   = AttemptState_ATTEMPT_STATE_EXPIRED
	canceled  = AttemptState_ATTEMPT_STATE_CANCELED
	rejected  = AttemptState_ATTEMPT_STATE_REJECTED
	failed    = AttemptState_ATTEMPT_STATE_FAILED
	succeeded = AttemptState_ATTEMPT_STATE_SUCCEEDED
	timedOut  = AttemptState_ATTEMPT_STATE_TIMED_OUT
	lost      = AttemptState_ATTEMPT_STATE_LOST
	released  = AttemptState_ATTEMPT_STATE_RELEASED
	running   = AttemptState_ATTEMPT_STATE_RUNNING
)

var reasons = []Reason{
	{"offline", states(skipped), "the agent was neither connected nor within its grace when the command was taken, or in quarantine", "run with --queue D to wait for it"},
	{"queue_full", states(skipped), "as many commands as may be wait for the agent", "see agentctl agents get AGENT; cancel what is not wanted any more"},
	{"agent_removed", states(skipped, lost), "the agent was removed; LOST when the program may have been started", ""},

	{"expired", states(expired), "nobody claimed it before its time was over", "give it longer with --ttl or --queue"},
	{"aborted", states(canceled), "the command was aborted, by an operator or since too many had failed, before it was claimed", "see agentctl commands get COMMAND; agentctl run --rerun canceled COMMAND"},
	{"superseded", states(canceled), "a later command with the same supersede key took its place before it was claimed", "the detail names that command"},
	{"canceled", states(canceled), "an operator canceled the command; when it was claimed, the agent ended the program or never started it", ""},

	{"expired", states(rejected), "its time was over when the agent could have started it", "give it longer with --ttl"},
	{"forgotten", states(rejected), "the command is older than what the agent's journal remembers: it cannot be shown that it was not started", "submit it as a new command"},
	{"invalid", states(rejected), "the command cannot be read or run as it is", "see the detail"},
	{"no_file", states(rejected), "a file or the input that the command brings along was not gotten", "see the detail; agentctl run --rerun rejected COMMAND"},
	{"no_journal", states(rejected), "the agent's journal cannot be written", "look at the disk of the host and the log of agentd"},
	{"no_slot", states(rejected), "more was claimed for the agent than it has slots", "see agentctl agents get AGENT"},
	{"not_meant", states(rejected), "the command does not name this agent, or is another one than was said", "see the detail; this is never normal"},
	{"not_prepared", states(rejected, failed), "there was no directory, space or process for the program; FAILED when it was a further step", "look at disk and memory of the host"},
	{"not_yet", states(rejected), "its time has not come", "see the detail; this is never normal"},
	{"policy", states(rejected), "the host's own policy forbids it", "see the detail, and the policy in the host's agentd.yaml"},
	{"unsupported", states(rejected), "the command asks for what this agentd does not know", "upgrade agentd"},
	{"wrong_cluster", states(rejected), "the command is of another cluster, or of a later life of this one", "see the detail; this is never normal"},

	{"undone", states(failed, canceled), "what the program did was undone: nobody confirmed it in time, the agent did not reach the cluster again, or it was canceled. A program that failed itself keeps its own reason, and beside it stands how its undo ended", "see the detail, and agentctl why COMMAND AGENT"},
	{"undo_failed", states(failed), "what the program did was to be undone, and the undo did not succeed. A program that failed itself keeps its own reason, as with undone", "see the detail; look at the host in which state it is"},
	{"bad_directory", states(failed), "the working directory cannot be entered", "see the detail"},
	{"exit", states(failed, succeeded), "the program ended by itself; FAILED with an exit code that is not 0", ""},
	{"no_reboot", states(failed), "the program announced a reboot of the host, and none came", "look at the host what keeps it from going down"},
	{"not_executable", states(failed), "the program cannot be executed (exit code 126)", "see the detail"},
	{"not_found", states(failed), "there is no such program (exit code 127)", "see the detail"},
	{"not_placed", states(failed), "a file of the command cannot be put in its place, or its standard input is spoilt; the program was not started", "see the detail: the directory must be there, and writable"},
	{"rebooted", states(succeeded), "the program announced a reboot of the host, and the host came back", ""},
	{"signal", states(failed), "a signal ended the program", ""},
	{"timeout", states(timedOut), "the program ran for as long as it may and was ended", "give it longer with --timeout"},

	{"agent_restart", states(lost), "agentd died after it had decided to start the program, and before it knew that it had", "look at the host whether it ran"},
	{"journal_behind", states(lost), "the agent's disk was put back to an older image", "look at the host; then agentctl agents readmit AGENT"},
	{"journal_lost", states(lost), "the agent came back with an empty disk", "look at the host whether it ran"},
	{"no_answer", states(lost), "the agent is connected and does not say what became of it", "look at the host and the log of agentd"},
	{"no_contact", states(lost), "the agent has had no session for too long; what it says when it comes back supersedes this. What waited for a confirmation is undone then, unless it is confirmed", "see agentctl agents get AGENT; agentctl commands confirm COMMAND"},
	{"reboot", states(lost), "the host was started anew while the program ran", "look at the host how far it came"},
	{"supervisor_gone", states(lost), "what watched the program on the host died", "look at the host whether memory ran out"},
	{"unknown", states(lost), "the agent was asked and its journal does not know of it", "look at the host whether it ran"},

	{"idempotent", states(released), "another attempt follows one that was LOST, since the command allows it", ""},
	{"reboot_announced", states(running), "the program has ended and announced a reboot of the host, which is waited for", "the detail says until when (run.reboot_wait of agentd); commands cancel ends the wait"},
	{"armed", states(running), "the program has succeeded, and its undo runs unless it is confirmed in time", "agentctl commands confirm COMMAND"},
	{"rearmed", states(running), "the host was started anew while it waited for a confirmation: the time for it began once more", "agentctl commands confirm COMMAND"},
	{"undoing", states(running), "the undo runs: the program did not succeed, or was not confirmed in time", ""},
	{"told_with_result", states(running), "the agent told that the program had started together with its end", ""},
}

// Word is a stable word that stands elsewhere than beside the state of an attempt.
type Word struct {
	Word, Beside string
	// As of Reason.
	Means, Next string
}

// What a Word stands beside.
const (
	BesideUndo = "undo" // why it ran
	BesideStop = "stop" // why a command is paused or aborted
	BesideWait = "wait" // why something waits: to be claimed, or for its end
)

// Words are all words that stand beside an undo, a stop or what waits. A test holds the table
// complete.
func Words() []Word { return slices.Clone(words) }

var words = []Word{
	{"not_confirmed", BesideUndo, "no operator confirmed it in time", "agentctl commands confirm COMMAND is in time until the undo begins; give it longer with --confirm-within"},
	{"no_contact", BesideUndo, "the agent did not reach the cluster anew in time", "look at the network of the host"},
	{"canceled", BesideUndo, "the command was canceled while the program ran or waited for a confirmation", ""},
	{"reboot", BesideUndo, "the host was started anew a second time while it waited for a confirmation", ""},
	{"failed", BesideUndo, "the program itself failed", "see the reason beside its state"},
	{"timed_out", BesideUndo, "the program itself ran for as long as it may", "give it longer with --timeout"},
	{"lost", BesideUndo, "what became of the program is not known", "look at the host how far it came"},

	{"max_failures", BesideStop, "more have failed than --max-failures allows", "see agentctl commands get COMMAND; agentctl commands resume COMMAND forgives them"},
	{"strict", BesideStop, "as many have failed as --max-failures allows, and --strict starts no more then", "see agentctl commands get COMMAND; agentctl commands resume COMMAND forgives them"},
	{"gate_health", BesideStop, "an agent on which it has succeeded is not reachable, or in quarantine", "see the detail; agentctl commands resume COMMAND"},
	{"gate_probe", BesideStop, "the probe of a wave did not succeed everywhere", "see the detail; agentctl commands resume COMMAND"},
	{"operator", BesideStop, "an operator stopped it", ""},

	{"reboot", BesideWait, "it runs: its program has ended and announced a reboot of the host, which has not come", "look at the host what keeps it from going down; agentctl commands cancel COMMAND ends the wait"},
	{"not_released", BesideWait, "its wave has not come", "see agentctl commands get COMMAND"},
	{"not_before", BesideWait, "its time has not come, or its share of the splay", ""},
	{"expired", BesideWait, "its time is over: it is EXPIRED in a moment", ""},
	{"paused", BesideWait, "its command is paused", "agentctl commands resume COMMAND"},
	{"held", BesideWait, "it was queued before the cluster was recovered, and is held", ""},
	{"offline", BesideWait, "the agent has no session", "see agentctl agents get AGENT"},
	{"not_ready", BesideWait, "the agent has not journalled its session yet", ""},
	{"quarantined", BesideWait, "the agent is in quarantine", "see agentctl agents get AGENT"},
	{"slot", BesideWait, "all slots of the agent are taken", ""},
	{"locked", BesideWait, "another holds a lock that it needs, of the host or of the fleet", "the detail names who"},
	{"exclusive", BesideWait, "it or another command runs alone on the host", "the detail names that command"},
	{"budget", BesideWait, "all places of a lock or a budget of the fleet are taken", "see agentctl lock list"},
	{"no_lock", BesideWait, "there is no such lock of the fleet any more", "make it with agentctl lock create"},
}
