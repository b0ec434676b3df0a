package configs

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"10s": 10 * time.Second, "30d": 720 * time.Hour, "1d12h": 36 * time.Hour, "0d": 0, "0": 0, "0s": 0,
		"1h30m": 90 * time.Minute, "1.5s": 1500 * time.Millisecond, "106751d": 106751 * 24 * time.Hour,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "10", "d", "1.5d", "-1d", "+1d", "1d-1h", "1d+1h", "1d1d", "1h1d", "106752d", "9999999999d", "106751d24h", "x", " 1s", "1s ", "1d x",
	} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("ParseDuration(%q) = %v, want an error", text, got)
		}
	}
}

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "512": 512, "512B": 512, "64KiB": 64 << 10, "10MiB": 10 << 20, "1GiB": 1 << 30, "2TiB": 2 << 40,
		"9223372036854775807": math.MaxInt64, "8388607TiB": 8388607 << 40,
	} {
		if got, err := ParseBytes(text); err != nil || got != want {
			t.Errorf("ParseBytes(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "B", "KiB", "-1", "+1", "1.5MiB", "10MB", "10M", "10kb", "8388608TiB", "9223372036854775808", "1 MiB"} {
		if got, err := ParseBytes(text); err == nil {
			t.Errorf("ParseBytes(%q) = %v, want an error", text, got)
		}
	}
}

func TestDurationsAndSizesSurviveTheRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, math.MaxInt64).Draw(t, "duration"))
		if rapid.Bool().Draw(t, "whole") {
			d = d.Truncate(time.Minute)
		}
		if got, err := ParseDuration(FormatDuration(d)); err != nil || got != d {
			t.Fatalf("ParseDuration(%q) = %v, %v, want %v", FormatDuration(d), got, err, d)
		}
		n := rapid.Int64Range(0, math.MaxInt64).Draw(t, "size")
		n = n >> rapid.IntRange(0, 40).Draw(t, "shift") << rapid.IntRange(0, 40).Draw(t, "back")
		n &= math.MaxInt64
		if got, err := ParseBytes(FormatBytes(n)); err != nil || got != n {
			t.Fatalf("ParseBytes(%q) = %v, %v, want %v", FormatBytes(n), got, err, n)
		}
	})
}

func TestFormatDurationIsShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		30 * 24 * time.Hour: "30d", 36 * time.Hour: "1d12h", 15 * time.Minute: "15m", time.Hour: "1h", 90 * time.Second: "1m30s",
		100 * time.Millisecond: "100ms", 0: "0s", 10 * time.Second: "10s", time.Hour + 10*time.Second: "1h0m10s", 10 * time.Hour: "10h",
	} {
		if got := FormatDuration(d); got != want {
			t.Errorf("FormatDuration(%d) = %q, want %q", d, got, want)
		}
	}
}
