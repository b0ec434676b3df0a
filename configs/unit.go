package configs

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// ParseDuration reads a duration of Go, before which days may stand: 10s, 1h30m,
// 30d, 1d12h.
func ParseDuration(text string) (time.Duration, error) {
	wrong := fmt.Errorf("%q is not a duration such as 500ms, 10s, 1h30m or 30d", text)
	rest := text
	var days time.Duration
	if before, after, found := strings.Cut(text, "d"); found {
		n, err := strconv.ParseUint(before, 10, 31)
		if err != nil || n > math.MaxInt64/uint64(24*time.Hour) {
			return 0, wrong
		}
		days, rest = time.Duration(n)*24*time.Hour, after
		if rest == "" {
			return days, nil
		}
		if rest[0] == '-' || rest[0] == '+' {
			return 0, wrong
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d > math.MaxInt64-days {
		return 0, wrong
	}
	return days + d, nil
}

// FormatDuration is the shortest text that ParseDuration reads as d.
func FormatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d == 0 {
		return "0s"
	}
	out := ""
	if d >= day {
		out, d = fmt.Sprintf("%dd", d/day), d%day
	}
	if d == 0 {
		return out
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return out + text
}

var byteUnits = []struct {
	suffix string
	size   int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// ParseBytes reads a size in bytes: 512, 64KiB, 10MiB, 1GiB. Units of a thousand
// are refused, since half of those who write MB mean the other one.
func ParseBytes(text string) (int64, error) {
	wrong := fmt.Errorf("%q is not a size such as 512, 64KiB, 10MiB or 1GiB", text)
	digits, size := text, int64(1)
	for _, u := range byteUnits {
		if before, found := strings.CutSuffix(text, u.suffix); found {
			digits, size = before, u.size
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || int64(n) > math.MaxInt64/size {
		return 0, wrong
	}
	return int64(n) * size, nil
}

// FormatBytes is the shortest text that ParseBytes reads as n.
func FormatBytes(n int64) string {
	for _, u := range byteUnits {
		if n >= u.size && n%u.size == 0 && u.size > 1 {
			return fmt.Sprintf("%d%s", n/u.size, u.suffix)
		}
	}
	return strconv.FormatInt(n, 10)
}
