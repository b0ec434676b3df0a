package journal

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// MaxIDBytes bounds invocation, command and incarnation ids.
	MaxIDBytes = 128
	// MaxOutputBytes bounds head and tail of a result together; each chunk counts
	// chunkCostBytes more than its data. What is above is cut.
	MaxOutputBytes = 8 << 10
	// MaxTextBytes bounds reason and detail; longer ones are cut.
	MaxTextBytes = 256
	// MaxSteps bounds the steps of an attempt.
	MaxSteps = 32
	// MaxNameBytes bounds the name of a step.
	MaxNameBytes = 64

	chunkCostBytes = 8
)

// An ID names one journal for ever; it is random.
type ID [16]byte

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// A Key names an attempt of an invocation.
type Key struct {
	InvocationID string
	Attempt      uint32
}

func (k Key) String() string {
	return strconv.Quote(k.InvocationID) + " attempt " + strconv.FormatUint(uint64(k.Attempt), 10)
}

// An Epoch is a session epoch with the incarnation of the cluster that granted it.
type Epoch struct {
	Incarnation   uint64 // its number
	IncarnationID string // its random id
	Session       uint64 // the fencing number; only grows
}

// A State is how an attempt ended, by the name that the cluster uses.
type State string

// The states that a record can end with.
const (
	Succeeded State = "SUCCEEDED"
	Failed    State = "FAILED"
	TimedOut  State = "TIMED_OUT"
	Canceled  State = "CANCELED"
	Rejected  State = "REJECTED"
	Expired   State = "EXPIRED"
	Lost      State = "LOST"
)

func (s State) known() bool {
	switch s {
	case Succeeded, Failed, TimedOut, Canceled, Rejected, Expired, Lost:
		return true
	default:
		return false
	}
}

// Intent is the permission to start one attempt. Times are the cluster's, in
// nanoseconds since 1970.
type Intent struct {
	Key
	CommandID string
	Fence     uint64   // number of the claim
	Digest    [32]byte // SHA-256 of the envelope
	Submitted int64    // time of the Submit entry
	NotAfter  int64    // from then on the command may not start
	At        int64    // when this was journalled
}

// A Chunk is output of one stream.
type Chunk struct {
	Stream uint8 // 1 stdout, 2 stderr
	Data   []byte
}

// Result is how an attempt ended.
type Result struct {
	State   State
	Reason  string // one word, for programs: "not_found", "reboot"
	Detail  string // a clause, for people
	Started bool   // the program's own code ran

	ExitCode int32 // -1 when a signal ended the program, or it never ran
	Signal   int32 // 0 when none

	StartedAt int64         // the host's wall clock, nanoseconds since 1970; 0 is never
	EndedAt   int64         // likewise
	Duration  time.Duration // by the monotonic clock

	StdoutBytes uint64 // all that was written, kept or not
	StderrBytes uint64
	Head        []Chunk // how the output begins
	Tail        []Chunk // how it ends; never overlaps Head

	// OutputGone says that Head and Tail were there and no longer are: dropped by
	// age, or unreadable.
	OutputGone bool

	At int64 // cluster time when this was journalled
}

// A Step is one program of an attempt that has several.
type Step struct {
	Number uint32 // in the command, from 1; they grow, and some may be passed over
	Of     uint32 // how many the command has; what comes after all of them has a higher number
	Name   string
	At     int64  // cluster time when its intent was journalled
	Result Result // State is empty while there is none; without output
}

// Ended says that the step has its final state.
func (s Step) Ended() bool { return s.Result.State != "" }

// Record is all that the journal knows about one attempt.
type Record struct {
	Seq uint64 // of the record that made the attempt known
	Intent
	Steps     []Step // of an attempt that has some, in the order in which they began
	Guard     Guard  // of one that has an undo; empty while it has not waited for a confirmation
	Never     bool   // it was never started and never will be
	Result    Result // State is empty while there is none
	Confirmed bool   // the cluster has applied the result
}

// Ended says that the record has its final state.
func (r Record) Ended() bool { return r.Result.State != "" }

// Open says that the cluster still waits for something about this record.
func (r Record) Open() bool { return !r.Ended() || !r.Confirmed }

// lastStep is the step that began last; nil when none has.
func (r Record) lastStep() *Step {
	if len(r.Steps) == 0 {
		return nil
	}
	return &r.Steps[len(r.Steps)-1]
}

func (r Record) status() string {
	switch {
	case !r.Ended():
		return "started or about to start"
	case r.Never:
		return "never started, " + string(r.Result.State)
	default:
		return string(r.Result.State)
	}
}

// at is the latest time at which something was journalled about the attempt.
func (r Record) at() int64 { return max(r.At, r.Result.At) }

func (in Intent) validate() error {
	switch {
	case in.InvocationID == "" || len(in.InvocationID) > MaxIDBytes:
		return fmt.Errorf("%w: invocation id %q has %d bytes, 1 to %d are allowed", ErrInvalid, in.InvocationID, len(in.InvocationID), MaxIDBytes)
	case len(in.CommandID) > MaxIDBytes:
		return fmt.Errorf("%w: command id has %d bytes, at most %d are allowed", ErrInvalid, len(in.CommandID), MaxIDBytes)
	case in.Submitted <= 0:
		return fmt.Errorf("%w: submit time %d of invocation %q is not positive", ErrInvalid, in.Submitted, in.InvocationID)
	default:
		return nil
	}
}

// bounded returns r with text and output cut to their bounds. Cutting is better than
// refusing: a result that cannot be journalled would never be told.
func (r Result) bounded() Result {
	r.Reason, r.Detail = text(r.Reason), text(r.Detail)
	left := MaxOutputBytes
	var head, tail []Chunk
	for _, c := range r.Head {
		if left <= chunkCostBytes {
			break
		}
		c.Data = c.Data[:min(len(c.Data), left-chunkCostBytes)]
		head = append(head, c)
		left -= len(c.Data) + chunkCostBytes
	}
	first := len(r.Tail)
	for first > 0 && left > chunkCostBytes {
		first--
		c := r.Tail[first]
		c.Data = c.Data[max(0, len(c.Data)-(left-chunkCostBytes)):]
		tail = append(tail, c)
		left -= len(c.Data) + chunkCostBytes
	}
	slices.Reverse(tail)
	r.Head, r.Tail = head, tail
	return r
}

// text cuts s to its bound and makes it valid UTF-8, which the wire demands.
func text(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), MaxTextBytes)], "")
}
