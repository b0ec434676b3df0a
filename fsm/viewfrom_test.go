package fsm

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestViewFromIsTheFirstThatHoldsTheIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Options{})
		m.Advance(3)
		if v, err := m.ViewFrom(t.Context(), 2); err != nil || v.Index() != 3 {
			t.Fatalf("what is there already: %v, %v", v, err)
		}
		got := make(chan uint64, 2)
		for _, index := range []uint64{5, 6} {
			go func() {
				v, err := m.ViewFrom(t.Context(), index)
				if err != nil {
					t.Error(err)
				}
				got <- v.Index()
			}()
		}
		ctx, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error, 1)
		go func() {
			_, err := m.ViewFrom(ctx, 9)
			gaveUp <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-gaveUp; !errors.Is(err, context.Canceled) {
			t.Errorf("whoever gives up is told %v", err)
		}
		// 5 is never published; nobody runs between 6 and 9 who could look.
		for _, index := range []uint64{4, 6, 7, 8, 9} {
			m.Advance(index)
		}
		for range 2 {
			if index := <-got; index != 6 {
				t.Errorf("the view of index %d, want 6", index)
			}
		}
		if len(m.awaited) > 0 {
			t.Errorf("%d are still waited for", len(m.awaited))
		}
	})
}
