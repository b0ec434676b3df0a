package client

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestIDHoldsTheClustersTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := time.UnixMilli(rapid.Int64Range(0, 1<<47).Draw(t, "ms"))
		id, err := NewID(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := IDTime(id)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Equal(want) {
			t.Fatalf("IDTime(%s) = %v, want %v", id, got, want)
		}
	})
	for _, bad := range []string{"", "x", "01890000-0000-4000-8000-000000000001", "01890000-0000-7000-8000-00000000000A"} {
		if _, err := IDTime(bad); err == nil {
			t.Errorf("IDTime(%q) is accepted", bad)
		}
	}
}
