package controlplane

import (
	"os"
	"runtime"
	"testing"
)

func TestProcessCountsWhatItHolds(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: there is no /proc on " + runtime.GOOS)
	}
	before := process()
	for range 3 {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	end := make(chan struct{})
	defer close(end)
	go func() { <-end }()
	after := process()
	if after.OpenFiles != before.OpenFiles+3 {
		t.Errorf("%d open files after %d and three more", after.OpenFiles, before.OpenFiles)
	}
	if after.Goroutines <= before.Goroutines {
		t.Errorf("%d goroutines after %d and one more", after.Goroutines, before.Goroutines)
	}
	if after.ResidentBytes < 1<<20 || after.ResidentBytes > 1<<34 {
		t.Errorf("%d bytes are resident", after.ResidentBytes)
	}
}
