package main

import (
	"errors"
	"time"

	"github.com/google/uuid"
)

// newID returns a UUIDv7 of the given time, which is the cluster's: nodes refuse
// ids far ahead of their own time, and this machine's clock may be wrong.
func newID(now time.Time) (string, error) {
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

// idTime returns the time within a UUIDv7.
func idTime(s string) (time.Time, error) {
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

// chosenID returns what --id says, or a new id of the cluster's time.
func (a *app) chosenID(now int64) (string, error) {
	if a.flags.id != "" {
		return a.flags.id, nil
	}
	return newID(time.Unix(0, now))
}
