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

// Witness counts starts where they happen. All methods may be called at once.
type Witness struct {
	mu     sync.Mutex // guards starts
	starts map[Attempt]int
}

func (w *Witness) start(a Attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.starts == nil {
		w.starts = make(map[Attempt]int)
	}
	w.starts[a]++
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
	maps.DeleteFunc(w.starts, func(a Attempt, _ int) bool { return a.Command == command })
}
