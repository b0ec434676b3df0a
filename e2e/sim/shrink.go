package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Shrink drops one of the chosen faults after the other as long as the life still fails, and
// answers those that are left. A seed does not fix the scheduler, so each shorter list gets a
// few tries. It ends early when enough says so.
func Shrink(chosen []int, fails func([]int) bool, enough func() bool) []int {
	const tries = 3
	for i := len(chosen) - 1; i >= 0 && !enough(); i-- {
		fewer := slices.Delete(slices.Clone(chosen), i, i+1)
		for range tries {
			if fails(fewer) {
				chosen = fewer
				break
			}
		}
	}
	return chosen
}

// noFaults chooses none of those that are drawn.
const noFaults = "none"

// Choice is how people write which of the faults that a seed draws are lived.
func Choice(chosen []int) string {
	if len(chosen) == 0 {
		return noFaults
	}
	var all []string
	for _, i := range chosen {
		all = append(all, strconv.Itoa(i))
	}
	return strings.Join(all, ",")
}

// Choose reads a choice of the faults of a seed. An empty one is all of them.
func Choose(seed uint64, choice string) ([]int, error) {
	drawn, chosen := len(Draw(seed)), []int{}
	if choice == noFaults {
		return chosen, nil
	}
	if choice == "" {
		for i := range drawn {
			chosen = append(chosen, i)
		}
		return chosen, nil
	}
	for _, s := range strings.Split(choice, ",") {
		i, err := strconv.Atoi(strings.TrimSpace(s))
		switch {
		case err != nil:
			return nil, fmt.Errorf("choose faults %q: %q is no number; write 3,7 or %s", choice, s, noFaults)
		case i < 0 || i >= drawn:
			return nil, fmt.Errorf("choose faults %q: seed %d draws %d faults, numbered from 0 to %d", choice, seed, drawn, drawn-1)
		case slices.Contains(chosen, i):
			return nil, fmt.Errorf("choose faults %q: %d is there twice", choice, i)
		}
		chosen = append(chosen, i)
	}
	return chosen, nil
}

// shown is a list of faults as people read it, each with the number by which it is chosen.
func shown(faults []Fault, chosen []int) string {
	var b strings.Builder
	for _, i := range chosen {
		fmt.Fprintf(&b, "  %2d: %s\n", i, faults[i])
	}
	return b.String()
}
