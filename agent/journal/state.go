package journal

import (
	"cmp"
	"fmt"
	"hash/crc32"
	"slices"
)

// state is what the journal's records add up to. It holds no output, only where
// output lies in the file.
type state struct {
	id       ID
	seq      uint64
	hasFloor bool
	floor    int64
	epoch    Epoch
	records  map[Key]*entry
}

type entry struct {
	Record
	out location
}

// location is a piece of the journal file; n is 0 when there is none.
type location struct {
	off int64
	n   int
	crc uint32
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func locate(off int64, b []byte) location {
	if len(b) == 0 {
		return location{}
	}
	return location{off: off, n: len(b), crc: crc32.Checksum(b, castagnoli)}
}

func (s *state) header(count int) header {
	return header{
		Format: format, ID: s.id, Seq: s.seq, HasFloor: s.hasFloor, Floor: s.floor,
		Epoch: s.epoch, Count: uint64(count),
	}
}

// check says why m may not follow. The caller's errors and those of a file that
// contradicts itself are the same.
func (s *state) check(m *mutation) error {
	switch m.kind {
	case kindEpoch:
		switch {
		case m.epoch.Session < s.epoch.Session || m.epoch.Incarnation < s.epoch.Incarnation:
			return fmt.Errorf("%w: %d of incarnation %d, after %d of %d", ErrOlderEpoch,
				m.epoch.Session, m.epoch.Incarnation, s.epoch.Session, s.epoch.Incarnation)
		case m.epoch.Incarnation == s.epoch.Incarnation && m.epoch.IncarnationID != s.epoch.IncarnationID && s.epoch != (Epoch{}):
			return fmt.Errorf("%w: incarnation %d is %q here, %q was offered", ErrOlderEpoch,
				s.epoch.Incarnation, s.epoch.IncarnationID, m.epoch.IncarnationID)
		}
	case kindFloor:
		if s.hasFloor && s.floor != m.floor {
			return fmt.Errorf("%w: it is %d, %d was offered", ErrFloorSet, s.floor, m.floor)
		}
	case kindIntent, kindNever:
		if e, ok := s.records[m.intent.Key]; ok {
			return &KnownError{Record: e.Record}
		}
	case kindResult:
		switch e, ok := s.records[m.key]; {
		case !ok:
			return fmt.Errorf("%w: %s", ErrUnknown, m.key)
		case e.Ended():
			return &KnownError{Record: e.Record}
		}
	case kindConfirm:
		switch e, ok := s.records[m.key]; {
		case !ok:
			return fmt.Errorf("%w: %s", ErrUnknown, m.key)
		case !e.Ended():
			return fmt.Errorf("%w: %s has no result that could be confirmed", ErrInvalid, m.key)
		}
	case kindStepIntent, kindStepResult:
		switch e, ok := s.records[m.key]; {
		case !ok:
			return fmt.Errorf("%w: %s", ErrUnknown, m.key)
		case e.Ended():
			return &KnownError{Record: e.Record}
		default:
			return checkStep(e.Record, m)
		}
	case kindArm, kindKeep:
		e, ok := s.records[m.key]
		if !ok {
			return fmt.Errorf("%w: %s", ErrUnknown, m.key)
		}
		return checkGuard(e.Record, m)
	}
	return nil
}

// checkStep says why a record of a step may not follow: one step after the other, and each
// has one intent and one result.
func checkStep(r Record, m *mutation) error {
	last := r.lastStep()
	if m.kind == kindStepResult {
		switch {
		case last == nil || last.Number != m.step.Number:
			return fmt.Errorf("%w: step %d of %s is not the one that began last", ErrInvalid, m.step.Number, m.key)
		case last.Ended():
			return &KnownError{Record: r}
		}
		return nil
	}
	switch {
	case m.step.Number == 0 || len(r.Steps) >= MaxSteps:
		return fmt.Errorf("%w: step %d of %s, which has %d: at most %d are allowed, and they begin with 1", ErrInvalid, m.step.Number, m.key, len(r.Steps), MaxSteps)
	case last == nil:
		return nil
	case last.Number == m.step.Number:
		return &KnownError{Record: r}
	case m.step.Number > m.step.Of && r.Guard.Kept && refusesKept:
		return fmt.Errorf("%w: %s", ErrKept, m.key)
	case last.Number > m.step.Number || !last.Ended():
		return fmt.Errorf("%w: step %d of %s cannot follow step %d as it is", ErrInvalid, m.step.Number, m.key, last.Number)
	}
	return nil
}

// apply adds m, which check has passed; payloadAt is where its frame's payload lies.
func (s *state) apply(m *mutation, payloadAt int64) {
	s.seq++
	switch m.kind {
	case kindEpoch:
		s.epoch = m.epoch
	case kindFloor:
		s.floor, s.hasFloor = m.floor, true
	case kindIntent:
		s.records[m.intent.Key] = &entry{Record: Record{Seq: s.seq, Intent: m.intent}}
	case kindNever:
		s.records[m.intent.Key] = &entry{Record: Record{Seq: s.seq, Intent: m.intent, Never: true, Result: m.result}}
	case kindResult:
		e := s.records[m.key]
		e.Result, e.out = m.result, locate(payloadAt+int64(m.outAt), m.output)
	case kindConfirm:
		s.records[m.key].Confirmed = true
	case kindStepIntent:
		e := s.records[m.key]
		e.Steps = append(slices.Clip(e.Steps), m.step) // readers have the old ones
	case kindStepResult:
		e := s.records[m.key]
		e.Steps = slices.Clone(e.Steps)
		e.lastStep().Result = m.step.Result
	case kindArm:
		m.guard.Armed = true
		s.records[m.key].Guard = m.guard
	case kindKeep:
		s.records[m.key].Guard.keep(m.guard)
	}
}

// sorted gives the entries in the order in which the attempts became known.
func (s *state) sorted() []*entry {
	all := make([]*entry, 0, len(s.records))
	for _, e := range s.records {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b *entry) int { return cmp.Compare(a.Seq, b.Seq) })
	return all
}
