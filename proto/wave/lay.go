package wave

// Target is a target as Lay sees it.
type Target struct {
	// Skipped says that it will not be released at all.
	Skipped bool
	// Label is the first wave, from 1, whose label it has; 0 = there is none.
	Label int
}

// Lay lays targets, which come in their order, into waves that are complete. It answers
// for each target its rank from 1, which is 0 for those that are skipped, and for each
// wave its end: the ranks up to that are of it or of a wave before. A wave in which
// nobody is left ends where the one before does.
func Lay(shares []Share, targets []Target) (ranks, ends []uint32) {
	size := uint32(0)
	for _, t := range targets {
		if !t.Skipped {
			size++
		}
	}
	ranks, ends = make([]uint32, len(targets)), make([]uint32, len(shares))
	rank, next := uint32(0), 0
	for n, s := range shares {
		if s.Label != "" {
			for i, t := range targets {
				if t.Label == n+1 && !t.Skipped && ranks[i] == 0 {
					rank++
					ranks[i] = rank
				}
			}
		} else {
			for end := s.Of(size); rank < end && next < len(targets); next++ {
				if !targets[next].Skipped && ranks[next] == 0 {
					rank++
					ranks[next] = rank
				}
			}
		}
		ends[n] = rank
	}
	return ranks, ends
}

// Limit is how many failures a rollout of size targets bears, of which basisPoints are
// allowed. It rounds down: 10 % of 15 are borne by one failure, and not by two.
func Limit(size, basisPoints uint32) uint32 {
	return uint32(uint64(size) * uint64(basisPoints) / Whole)
}
