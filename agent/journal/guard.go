package journal

import "fmt"

// A Guard is how the wait of an attempt for a confirmation stands: without one the program
// that comes after all steps takes back what they did.
type Guard struct {
	Armed    bool
	BootID   string // of the kernel whose uptime Deadline is
	Deadline int64  // uptime of the host in nanoseconds, the time counted in which it slept
	Until    int64  // cluster time of that, as it was known
	Again    bool   // the wait has begun once more, since the host was started anew
	At       int64  // cluster time when this was journalled

	// Kept says that it was confirmed, by whom: an operator, or with Contact the node that
	// has answered.
	Kept    bool
	By      string
	Contact bool
	KeptAt  int64
}

// Arm journals that a started attempt, whose steps have ended, waits for a confirmation. It
// may be journalled once more, with Again. Errors: ErrUnknown, ErrInvalid, and *KnownError
// when the attempt has ended or is kept.
func (j *Journal) Arm(k Key, g Guard) error {
	if len(g.BootID) > MaxIDBytes {
		return fmt.Errorf("%w: boot id has %d bytes, at most %d are allowed", ErrInvalid, len(g.BootID), MaxIDBytes)
	}
	return j.append("wait for a confirmation", mutation{kind: kindArm, key: k, guard: g})
}

// Keep journals that what the attempt did was confirmed, by an operator or by contact with a
// node. Of this and the intent of the step after the last whichever is journalled first
// stands. Errors: ErrUnknown, ErrNotArmed, ErrTooLate, and *KnownError when it is kept
// already.
func (j *Journal) Keep(k Key, by string, contact bool, at int64) error {
	return j.append("confirmation", mutation{kind: kindKeep, key: k, guard: Guard{By: text(by), Contact: contact, KeptAt: at}})
}

// undoing says that the step after the last has begun.
func (r Record) undoing() bool {
	last := r.lastStep()
	return last != nil && last.Number > last.Of
}

// checkGuard says why a record of the wait for a confirmation may not follow.
func checkGuard(r Record, m *mutation) error {
	g := r.Guard
	switch {
	case g.Kept, m.kind == kindArm && r.Ended():
		return &KnownError{Record: r}
	case m.kind == kindKeep && (r.Ended() || r.undoing()):
		return fmt.Errorf("%w: %s", ErrTooLate, m.key)
	case m.kind == kindKeep && !g.Armed:
		return fmt.Errorf("%w: %s", ErrNotArmed, m.key)
	case m.kind == kindKeep:
		return nil
	}
	switch last := r.lastStep(); {
	case last == nil || !last.Ended() || r.undoing():
		return fmt.Errorf("%w: %s cannot wait for a confirmation before its steps have ended", ErrInvalid, m.key)
	case g.Armed && (g.Again || !m.guard.Again):
		return fmt.Errorf("%w: %s waits for a confirmation already", ErrInvalid, m.key)
	default:
		return nil
	}
}

// guard encodes a guard, or that there is none.
func (e *encoder) guard(g Guard) {
	e.bool(g.Armed)
	if !g.Armed {
		return
	}
	e.armed(g)
	e.bool(g.Kept)
	if g.Kept {
		e.kept(g)
	}
}

func (d *decoder) guard() (g Guard) {
	if !d.bool() {
		return g
	}
	g = d.armed()
	if d.bool() {
		g.keep(d.kept())
	}
	return g
}

// keep takes over who has confirmed it.
func (g *Guard) keep(k Guard) { g.Kept, g.By, g.Contact, g.KeptAt = true, k.By, k.Contact, k.KeptAt }

func (e *encoder) armed(g Guard) {
	e.string(g.BootID)
	e.int(g.Deadline)
	e.int(g.Until)
	e.bool(g.Again)
	e.int(g.At)
}

func (d *decoder) armed() Guard {
	return Guard{Armed: true, BootID: d.string(MaxIDBytes), Deadline: d.int(), Until: d.int(), Again: d.bool(), At: d.int()}
}

func (e *encoder) kept(g Guard) {
	e.string(g.By)
	e.bool(g.Contact)
	e.int(g.KeptAt)
}

func (d *decoder) kept() Guard {
	return Guard{By: d.string(MaxTextBytes), Contact: d.bool(), KeptAt: d.int()}
}
