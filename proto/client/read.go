package client

// ReadOption changes how a read is made.
type ReadOption func(*read)

type read struct{ stale bool }

// Stale lets one node answer from its own state, without asking the others: quicker, also
// without a quorum, and perhaps old. LeaderAge says how old.
func Stale(stale bool) ReadOption { return func(r *read) { r.stale = stale } }

func readOf(opts []ReadOption) read {
	var r read
	for _, o := range opts {
		o(&r)
	}
	return r
}
