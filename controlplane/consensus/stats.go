package consensus

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Stats is what a host says of itself, for status and metrics.
type Stats struct {
	State         string
	Term          uint64
	LastIndex     uint64
	CommitIndex   uint64
	Published     uint64
	Leader        raft.ServerID
	Office        Office // zero when not in office
	LastContact   time.Time
	QueueLength   int // proposals waiting on this leader
	StoreCalls    uint64
	StoreLongest  time.Duration // the longest call of log or stable store so far
	FreePages     int           // of the bbolt files
	LogBytes      uint64        // appended since the last snapshot of this node
	Willing       bool
	WhyUnwilling  string
	ClockDistance time.Duration // of this node from the voters' median, when last measured
}

// Stats answers the present numbers; they are not read at one instant.
func (h *Host) Stats() Stats {
	published, _ := h.opts.Machine.Published()
	calls, longest := h.watch.stats()
	_, leader := h.raft.LeaderWithID()
	s := Stats{
		State:         h.raft.State().String(),
		Term:          h.raft.CurrentTerm(),
		LastIndex:     h.raft.LastIndex(),
		CommitIndex:   h.raft.CommitIndex(),
		Published:     published,
		Leader:        leader,
		LastContact:   h.raft.LastContact(),
		StoreCalls:    calls,
		StoreLongest:  longest,
		FreePages:     h.disk.FreePages(),
		LogBytes:      h.compaction.bytes.Load(),
		Willing:       h.will.willing(),
		WhyUnwilling:  h.will.why(),
		ClockDistance: h.will.distance(),
	}
	if t := h.office.Load(); t != nil {
		s.Office = t.Office
		s.QueueLength = t.batch.length()
	}
	return s
}

// LeaderChanges returns a channel that gets a value after each change of leader or
// office, several changes at times as one, and a function that ends it. Whoever
// receives asks Leader or InOffice. The channel is closed when the host closes.
func (h *Host) LeaderChanges() (<-chan struct{}, func()) { return h.subs.add() }

// observe forwards raft's news of leaders. raft drops an observation when the
// channel is full; then a value waits there already.
func (h *Host) observe() {
	ch := make(chan raft.Observation, 1)
	o := raft.NewObserver(ch, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	h.raft.RegisterObserver(o)
	h.tasks.Go(func() {
		defer h.raft.DeregisterObserver(o)
		for {
			select {
			case <-ch:
				h.subs.signal()
			case <-h.closing:
				return
			}
		}
	})
}

// subscribers are woken together.
type subscribers struct {
	mu     sync.Mutex // guards all; never held while sending blocks
	all    map[chan struct{}]struct{}
	closed bool
}

func (s *subscribers) add() (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[chan struct{}]struct{})
	}
	s.all[ch] = struct{}{}
	if s.closed {
		close(ch)
		return ch, func() {}
	}
	return ch, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.all, ch)
	}
}

func (s *subscribers) signal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	for ch := range s.all {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

func (s *subscribers) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		for ch := range s.all {
			close(ch)
		}
	}
}
