package wave

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	// MaxWaves bounds the waves of one rollout.
	MaxWaves = 32
	// Whole is 100 % in basis points.
	Whole = 10_000
)

// Share says who has been released when a wave is; one of the three is set.
type Share struct {
	// Count is how many targets.
	Count uint32
	// BasisPoints is which part of all targets, in hundredths of a percent.
	BasisPoints uint32
	// Label and Value mean everybody with the label who is in no wave before.
	Label, Value string
}

// String is the share as it is typed.
func (s Share) String() string {
	switch {
	case s.Label != "":
		return "label." + s.Label + "=" + s.Value
	case s.BasisPoints > 0:
		return Percent(s.BasisPoints)
	default:
		return strconv.FormatUint(uint64(s.Count), 10)
	}
}

// Percent is a number of basis points as it is typed: 5%, 12.5%, 0.01%.
func Percent(basisPoints uint32) string {
	text := strconv.FormatUint(uint64(basisPoints/100), 10)
	if rest := basisPoints % 100; rest > 0 {
		text += "." + strings.TrimRight(fmt.Sprintf("%02d", rest), "0")
	}
	return text + "%"
}

// Of is how many of size targets have been released when the wave is.
func (s Share) Of(size uint32) uint32 {
	if s.BasisPoints > 0 {
		return uint32((uint64(size)*uint64(s.BasisPoints) + Whole - 1) / Whole)
	}
	return min(s.Count, size)
}

// Parse reads shares with commas between them: 1,5%,25%,100% or
// label.ring=canary,100%. It checks each of them, and not how they follow each other.
func Parse(text string) ([]Share, error) {
	var shares []Share
	for n, part := range strings.Split(text, ",") {
		s, err := parseShare(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("wave %d: %w", n+1, err)
		}
		shares = append(shares, s)
	}
	return shares, nil
}

func parseShare(text string) (Share, error) {
	if rest, isLabel := strings.CutPrefix(text, "label."); isLabel {
		name, value, found := strings.Cut(rest, "=")
		if !found || name == "" {
			return Share{}, fmt.Errorf("%q is not of the form label.NAME=VALUE", text)
		}
		return Share{Label: name, Value: value}, nil
	}
	count, basisPoints, err := ParseAmount(text)
	switch {
	case err != nil:
		return Share{}, err
	case count == 0 && basisPoints == 0:
		return Share{}, fmt.Errorf("%q is nobody", text)
	}
	return Share{Count: count, BasisPoints: basisPoints}, nil
}

// ParseAmount reads a count (3) or a percentage (2.5%) as basis points.
func ParseAmount(text string) (count, basisPoints uint32, err error) {
	number, isPercent := strings.CutSuffix(text, "%")
	if !isPercent {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return 0, 0, fmt.Errorf("%q is neither a count nor a percentage", text)
		}
		return uint32(n), 0, nil
	}
	whole, fraction, _ := strings.Cut(number, ".")
	n, err := strconv.ParseUint(whole+(fraction + "00")[:2], 10, 32)
	if err != nil || whole == "" || len(fraction) > 2 || n > Whole || strings.HasSuffix(number, ".") {
		return 0, 0, fmt.Errorf("%q is not a percentage between 0%% and 100%%, with two decimals at most", text)
	}
	return 0, uint32(n), nil
}

// Complete adds a wave of everybody when none is the last.
func Complete(shares []Share) []Share {
	if n := len(shares); n > 0 && shares[n-1].BasisPoints == Whole {
		return shares
	}
	return append(shares[:len(shares):len(shares)], Share{BasisPoints: Whole})
}

// Check says what is wrong with complete shares.
func Check(shares []Share) error {
	switch n := len(shares); {
	case n == 0:
		return errors.New("there is no wave")
	case n > MaxWaves:
		return fmt.Errorf("%d waves are above the maximum %d", n, MaxWaves)
	case shares[n-1].BasisPoints != Whole:
		return errors.New("the last wave is not 100%")
	}
	var count, points uint32
	for i, s := range shares {
		set := 0
		for _, is := range []bool{s.Count > 0, s.BasisPoints > 0, s.Label != ""} {
			if is {
				set++
			}
		}
		switch {
		case set != 1:
			return fmt.Errorf("wave %d is not one of a count, a percentage and a label", i+1)
		case s.BasisPoints > Whole:
			return fmt.Errorf("wave %d is of more than 100%%", i+1)
		case s.Count > 0 && s.Count <= count, s.BasisPoints > 0 && s.BasisPoints <= points:
			return fmt.Errorf("wave %d, %s, is not above those before it: waves are cumulative", i+1, s)
		}
		count, points = max(count, s.Count), max(points, s.BasisPoints)
	}
	return nil
}
