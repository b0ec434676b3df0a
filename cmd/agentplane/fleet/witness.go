package fleet

import (
	"fmt"
	"maps"
	"sync"
)

// Attempt names one start that may happen once.
type Attempt struct {
	Command, Invocation string
	Number              uint32
}

// Witness counts starts, and how they end, where they happen. All methods may be called at
// once.
type Witness struct {
	mu     sync.Mutex // guards what follows
	starts map[Attempt]int
	stakes map[string]stake // by command
}

// stake is what of a command may have failed: what runs, and what has.
type stake struct{ running, failed, most int }

func (w *Witness) start(a Attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.starts == nil {
		w.starts = make(map[Attempt]int)
	}
	w.starts[a]++
	if w.stakes == nil {
		w.stakes = make(map[string]stake)
	}
	s := w.stakes[a.Command]
	s.running++
	s.most = max(s.most, s.running+s.failed)
	w.stakes[a.Command] = s
}

// end notes that an attempt which has started has ended.
func (w *Witness) end(command string, failed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.stakes[command]
	s.running--
	if failed {
		s.failed++
	}
	w.stakes[command] = s
}

// MostAtStake is how many attempts of the command ran or had failed at most, together, at
// any moment: what would have failed at worst.
func (w *Witness) MostAtStake(command string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stakes[command].most
}

// Starts answers how often each attempt of the command was started.
func (w *Witness) Starts(command string) map[Attempt]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	of := make(map[Attempt]int)
	for a, n := range w.starts {
		if a.Command == command {
			of[a] = n
		}
	}
	return of
}

// Twice is the first attempt found that was started more than once.
func (w *Witness) Twice() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for a, n := range w.starts {
		if n > 1 {
			return fmt.Errorf("attempt %d of invocation %s was started %d times", a.Number, a.Invocation, n)
		}
	}
	return nil
}

// Forget lets go of the starts of a command.
func (w *Witness) Forget(command string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.stakes, command)
	maps.DeleteFunc(w.starts, func(a Attempt, _ int) bool { return a.Command == command })
}
