package execute

import (
	"fmt"
	"syscall"
	"time"
)

// A State is how an attempt ended, by the name that the cluster uses.
type State string

// The states that this package gives.
const (
	Succeeded State = "SUCCEEDED"
	Failed    State = "FAILED"
	TimedOut  State = "TIMED_OUT"
	Canceled  State = "CANCELED"
	Rejected  State = "REJECTED" // this host could not even try; the program has not run
	Lost      State = "LOST"     // how it ended is not known
)

// Reasons: one word for programs. Result.Detail says it to people.
const (
	ReasonExit          = "exit"           // the program ended with an exit code
	ReasonSignal        = "signal"         // a signal ended it
	ReasonTimeout       = "timeout"        // TIMED_OUT
	ReasonCanceled      = "canceled"       // CANCELED
	ReasonNotFound      = "not_found"      // FAILED 127: there is no such program
	ReasonNotExecutable = "not_executable" // FAILED 126: it cannot be executed
	ReasonBadDirectory  = "bad_directory"  // FAILED 126: the working directory cannot be entered
	ReasonNotPrepared   = "not_prepared"   // REJECTED: no directory, space or process for it; FAILED of a further step
	ReasonRebooted      = "rebooted"       // SUCCEEDED: it announced a reboot, and the host was started anew
	// RUNNING: it has ended, and the reboot that it announced is waited for.
	ReasonRebootAnnounced = "reboot_announced"
	ReasonNoReboot        = "no_reboot" // FAILED: it announced a reboot, and none came
	// FAILED 126: a file of the command cannot be put where it shall be, or its standard input is spoilt.
	ReasonNotPlaced = "not_placed"

	ReasonReboot         = "reboot"          // LOST: the host was started anew
	ReasonSupervisorGone = "supervisor_gone" // LOST: the supervisor died
	ReasonAgentRestart   = "agent_restart"   // LOST: agentd died before there was a supervisor
)

// Streams of a Chunk.
const (
	Stdout uint8 = 1
	Stderr uint8 = 2
)

// A Chunk is output of one stream.
type Chunk struct {
	Stream uint8
	Data   []byte
}

// Result is how an attempt ended.
type Result struct {
	State  State
	Reason string
	Detail string

	// Started says that the program ran, or may have run when the state is LOST; false is
	// proof that it never did and never will.
	Started  bool
	ExitCode int // -1 when a signal ended the program, or it is not known
	Signal   int // 0 when none

	StartedAt time.Time     // wall clock; zero when it never started
	EndedAt   time.Time     // wall clock; zero when not known
	Duration  time.Duration // monotonic

	UserTime    time.Duration // of the program and the children it waited for
	SystemTime  time.Duration
	MaxRSSBytes int64

	StdoutBytes uint64 // all that was written, kept or not
	StderrBytes uint64
	Unstored    uint64  // bytes that could not be stored, since the disk failed or is full
	Head        []Chunk // how the output begins, at most 4 KiB
	Tail        []Chunk // how it ends, likewise; never overlaps Head

	// Reboot is set when the program had announced a reboot of the host: then it stands
	// under which boot id, and at which uptime (by CLOCK_BOOTTIME), it was seen to have ended.
	Reboot *Announcement `json:",omitempty"`

	// Uptime is that of the host when the program's end was seen, the time counted in which
	// it slept; 0 when that is not known.
	Uptime time.Duration `json:",omitempty"`
}

// An Announcement is what a program has said of a reboot.
type Announcement struct {
	BootID string
	Uptime time.Duration
}

// exited fills r from how the main process ended.
func (r *Result) exited(ws syscall.WaitStatus, ru *syscall.Rusage) {
	r.ExitCode, r.Signal = ws.ExitStatus(), 0
	r.State, r.Reason, r.Detail = Succeeded, ReasonExit, ""
	switch {
	case ws.Signaled():
		r.ExitCode, r.Signal = -1, int(ws.Signal())
		r.State, r.Reason = Failed, ReasonSignal
		r.Detail = fmt.Sprintf("signal %d (%s) ended the program", r.Signal, ws.Signal())
	case r.ExitCode != 0:
		r.State, r.Detail = Failed, fmt.Sprintf("the program ended with %d", r.ExitCode)
	}
	if ru != nil {
		r.UserTime, r.SystemTime = time.Duration(ru.Utime.Nano()), time.Duration(ru.Stime.Nano())
		r.MaxRSSBytes = ru.Maxrss << 10
	}
}

// say adds a clause to the detail.
func (r *Result) say(clause string, args ...any) {
	if r.Detail != "" {
		r.Detail += "; "
	}
	r.Detail += fmt.Sprintf(clause, args...)
}
