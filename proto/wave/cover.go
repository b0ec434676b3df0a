package wave

// Cover orders targets so that those in front are as different as may be. traits holds
// for each target as many words as for any other (its system, version, role); first is
// how many targets the first wave has. It answers the targets in their new order, and
// how many of the distinct combinations of traits are not among the first.
//
// In front stands the first target of each combination. When the first wave has no room
// for all of them, each place goes to the one that shows most words that are not yet
// shown, so that every system, version and role is there before a combination is there
// twice. Everybody else follows as they came.
func Cover(traits [][]string, first int) (order []int, left int) {
	heads, rest := firstOfEach(traits)
	if first < len(heads) {
		left = len(heads) - max(first, 0)
		mostDifferent(traits, heads, max(first, 0))
	}
	return append(heads, rest...), left
}

// firstOfEach divides the targets into the first of each combination and the others.
func firstOfEach(traits [][]string) (heads, rest []int) {
	seen := make(map[string]bool)
	for i, words := range traits {
		key := ""
		for _, w := range words {
			key += w + "\x00"
		}
		if seen[key] {
			rest = append(rest, i)
			continue
		}
		seen[key] = true
		heads = append(heads, i)
	}
	return heads, rest
}

// mostDifferent moves those of the heads to the first places that show most. It looks at
// all of them for each place, and at no place once every word is shown.
func mostDifferent(traits [][]string, heads []int, places int) {
	type word struct {
		trait int
		text  string
	}
	shown := make(map[word]bool)
	for at := range places {
		best, most := at, 0
		for n, i := range heads[at:] {
			fresh := 0
			for trait, text := range traits[i] {
				if !shown[word{trait, text}] {
					fresh++
				}
			}
			if fresh > most {
				best, most = at+n, fresh
				if most == len(traits[i]) {
					break
				}
			}
		}
		if most == 0 {
			return
		}
		i := heads[best]
		copy(heads[at+1:best+1], heads[at:best])
		heads[at] = i
		for trait, text := range traits[i] {
			shown[word{trait, text}] = true
		}
	}
}
