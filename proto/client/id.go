package client

import (
	"errors"
	"time"

	"github.com/google/uuid"
)

// NewID returns a new UUIDv7 that carries the given time. It has to be the cluster's,
// which Now returns: nodes refuse ids that are far ahead of their own time, and this
// machine's clock may be wrong.
func NewID(now time.Time) (string, error) {
	id, err := uuid.NewRandom()
	if err != nil {
		return "", err
	}
	ms := uint64(now.UnixMilli())
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	id[6] = 0x70 | id[6]&0x0f
	return id.String(), nil
}

// IDTime returns the time that a UUIDv7 carries, to the millisecond.
func IDTime(s string) (time.Time, error) {
	id, err := uuid.Parse(s)
	if err != nil || id.String() != s || id.Version() != 7 {
		return time.Time{}, errors.New("it is not a UUID of version 7 in lower case")
	}
	var ms int64
	for _, b := range id[:6] {
		ms = ms<<8 | int64(b)
	}
	return time.UnixMilli(ms), nil
}
