package journal

import (
	"errors"
	"fmt"
)

var (
	// ErrJournal says that an earlier write or fsync failed, or that the journal was
	// closed. Nothing can be made durable any more, so nothing may be started.
	ErrJournal = errors.New("journal is dead")
	// ErrFull says that a bound or the reserve of free disk space is reached. Nothing
	// was written. It goes away when records are forgotten or the disk has room.
	ErrFull = errors.New("journal is full")
	// ErrForgotten says that the command was submitted before the journal's floor.
	ErrForgotten = errors.New("command is older than the journal's floor")
	// ErrNoFloor says that SetFloor has not been called on this new journal.
	ErrNoFloor = errors.New("journal has no floor yet")
	// ErrFloorSet says that the journal already has another floor.
	ErrFloorSet = errors.New("journal already has a floor")
	// ErrOlderEpoch says that a session epoch or incarnation lies behind the journalled one.
	ErrOlderEpoch = errors.New("session epoch is older than the journalled one")
	// ErrUnknown says that the journal has no record of the attempt.
	ErrUnknown = errors.New("attempt is not in the journal")
	// ErrNotArmed says that the attempt does not wait for a confirmation.
	ErrNotArmed = errors.New("attempt waits for no confirmation")
	// ErrTooLate says that the confirmation of an attempt comes when its undo has begun, or
	// when it has ended.
	ErrTooLate = errors.New("confirmation comes too late")
	// ErrKept says that the attempt is confirmed, so that no undo may begin.
	ErrKept = errors.New("attempt is confirmed")
	// ErrLocked says that another process has the journal open.
	ErrLocked = errors.New("journal is open in another process")
	// ErrInvalid says that an argument cannot be journalled; the text says which.
	ErrInvalid = errors.New("invalid journal record")
)

// KnownError refuses a second Intent, Never or Result for an attempt. Record is what
// stands, and it is durable; the caller answers from it.
type KnownError struct {
	Record Record
}

func (e *KnownError) Error() string {
	return fmt.Sprintf("attempt %s is already in the journal as %s (seq %d)", e.Record.Key, e.Record.status(), e.Record.Seq)
}

// FormatError says that a file was written by a newer release.
type FormatError struct {
	File   string
	Format uint64
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("journal file %q has format %d, this agentd reads up to %d: upgrade agentd", e.File, e.Format, format)
}

// DamageError says why a journal was put aside.
type DamageError struct {
	File   string
	Offset int64
	Reason string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("journal file %q is damaged at offset %d: %s", e.File, e.Offset, e.Reason)
}
