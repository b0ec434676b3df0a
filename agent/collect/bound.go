package collect

import (
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

const (
	// MaxFacts bounds the number of facts.
	MaxFacts = 256
	// MaxValueBytes bounds a value.
	MaxValueBytes = 256
)

const (
	bootTime = "boot_time"
	// jitter is how far two readings of one boot time may lie apart.
	jitter = 2 * time.Minute
)

// bound gives the facts sorted by name and within their bounds. Empty ones are left out.
func bound(raw map[string]string) []*agentplanev1.Label {
	var facts []*agentplanev1.Label
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		value := clean(raw[name])
		if value == "" || len(facts) == MaxFacts {
			continue
		}
		facts = append(facts, &agentplanev1.Label{Name: name, Value: value})
	}
	return facts
}

// clean makes a value valid UTF-8 without control characters, and cuts it to its bound
// between two characters.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
	s = strings.TrimSpace(s)
	if len(s) <= MaxValueBytes {
		return s
	}
	n := MaxValueBytes
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// steady gives the old boot time when the new one may be the same.
func steady(old, now string) string {
	a, err := time.Parse(time.RFC3339, old)
	if err != nil {
		return now
	}
	b, err := time.Parse(time.RFC3339, now)
	if err != nil {
		return now
	}
	if b.Sub(a).Abs() <= jitter {
		return old
	}
	return now
}
