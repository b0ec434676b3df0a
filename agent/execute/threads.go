package execute

import (
	"runtime"
	"sync"
)

// threads is how many an agent takes at its start. One with nothing to do has eight, and its
// work does not wait in threads; but files do, when the disk is slow. A host that has no room for
// them when agentd starts has none for what it is to run either.
const threads = 32

// reserveThreads gives the process at least n threads, which it keeps.
//
// The runtime of Go ends a process that needs another thread when the host has no room for
// one (golang/go#49438). Whoever has them before that can go on, and tell of it.
func reserveThreads(n int) {
	var locked, over sync.WaitGroup
	locked.Add(n)
	all := make(chan struct{})
	for range n {
		over.Go(func() {
			// A thread is this goroutine's alone while it is locked, so n need n of them; and it
			// outlives the goroutine, which unlocks it.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			locked.Done()
			<-all
		})
	}
	locked.Wait()
	close(all)
	over.Wait()
}
