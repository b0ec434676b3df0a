package rollout

import (
	"container/heap"
	"time"
)

// item is one thing to look at: a command, or one of its claimed attempts.
type item struct {
	command string
	attempt *attempt // nil: the command itself
	at      time.Time
	place   int    // in the queue; -1 = not there
	list    uint64 // the number of the last list that had it
}

// queue orders items by when to look at them.
type queue struct{ items itemHeap }

// put has the item looked at, at the given time.
func (q *queue) put(i *item, at time.Time) {
	i.at = at
	if i.place >= 0 {
		heap.Fix(&q.items, i.place)
		return
	}
	heap.Push(&q.items, i)
}

func (q *queue) remove(i *item) {
	if i.place >= 0 {
		heap.Remove(&q.items, i.place)
	}
}

// due takes the first item out of the queue if its time has come.
func (q *queue) due(now time.Time) *item {
	if len(q.items) == 0 || q.items[0].at.After(now) {
		return nil
	}
	return heap.Pop(&q.items).(*item)
}

// wait is how long nothing is due, at most most.
func (q *queue) wait(now time.Time, most time.Duration) time.Duration {
	if len(q.items) == 0 {
		return most
	}
	return min(most, max(0, q.items[0].at.Sub(now)))
}

type itemHeap []*item

func (h itemHeap) Len() int           { return len(h) }
func (h itemHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h itemHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *itemHeap) Push(x any) {
	i := x.(*item)
	i.place = len(*h)
	*h = append(*h, i)
}

func (h *itemHeap) Pop() any {
	last := len(*h) - 1
	i := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	i.place = -1
	return i
}
