package sim

import "slices"

// Shrink drops one fault after the other as long as the life still fails, and answers
// those that are left. A seed does not fix the scheduler, so each shorter list gets a
// few tries. It ends early when enough says so.
func Shrink(faults []Fault, fails func([]Fault) bool, enough func() bool) []Fault {
	const tries = 3
	for i := len(faults) - 1; i >= 0 && !enough(); i-- {
		fewer := slices.Delete(slices.Clone(faults), i, i+1)
		for range tries {
			if fails(fewer) {
				faults = fewer
				break
			}
		}
	}
	return faults
}
