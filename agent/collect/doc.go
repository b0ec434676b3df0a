// Package collect gathers the facts of a host: few, small and stable texts by which
// operators select agents.
//
// A fact changes when the host does: nothing here moves by itself, so that facts are sent
// rarely. (The boot time, computed from two clocks, may jitter; it is kept while it is
// within two minutes of the last one.) At most [MaxFacts] facts of [MaxValueBytes] bytes,
// sorted by name; their hash tells whether a node has them.
//
// It is the only package that imports gopsutil, of which it uses the cheap parts only: no
// walk over processes, no network connections, no host.Info (8 ms), no file systems, whose
// statfs can hang for ever on a dead mount. gopsutil reads the host's /proc where HOST_PROC
// says so; the limits of the container are read from the control group, v2 or v1, here.
//
// A collection has a goroutine of its own, one at a time, since a dead disk below /etc can
// hang it for ever: it is waited for a few seconds, then left alone, and Facts goes on to
// answer the last ones.
package collect
