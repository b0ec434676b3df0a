package main

import (
	"fmt"
	"slices"
	"strings"
)

const (
	// diffContext is how many equal lines stand around what differs.
	diffContext = 3
	// maxEdits is from how many lines that differ on two texts have nothing to do with
	// each other: what is remembered on the way grows with its square.
	maxEdits = 400
)

// edit is a line of a diff: ' ' is in both texts, '-' in the first, '+' in the second.
type edit struct {
	kind byte
	line string
}

// diffLines returns the shortest way from a to b (Myers 1986), and false when it has more
// than maxEdits steps.
func diffLines(a, b []string) ([]edit, bool) {
	// What is alike at both ends costs nothing.
	head := 0
	for head < min(len(a), len(b)) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < min(len(a), len(b))-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	middle, ok := shortest(a[head:len(a)-tail], b[head:len(b)-tail])
	if !ok {
		return nil, false
	}
	var all []edit
	for _, line := range a[:head] {
		all = append(all, edit{' ', line})
	}
	all = append(all, middle...)
	for _, line := range a[len(a)-tail:] {
		all = append(all, edit{' ', line})
	}
	return all, true
}

func shortest(a, b []string) ([]edit, bool) {
	// x[k] is how far in a the furthest way of d steps comes on diagonal k = x - y.
	most := min(len(a)+len(b), maxEdits)
	x := make([]int, 2*most+3)
	at := func(k int) int { return k + most + 1 }
	var steps [][]int // x before each step
	for d := 0; d <= most; d++ {
		steps = append(steps, slices.Clone(x[at(-d):at(d)+1]))
		for k := -d; k <= d; k += 2 {
			n := x[at(k-1)] + 1 // a line of a goes
			if k == -d || k != d && x[at(k-1)] < x[at(k+1)] {
				n = x[at(k+1)] // a line of b comes
			}
			for n < len(a) && n-k < len(b) && a[n] == b[n-k] {
				n++
			}
			x[at(k)] = n
			if n >= len(a) && n-k >= len(b) {
				return walkBack(a, b, steps), true
			}
		}
	}
	return nil, false
}

// walkBack goes the way that shortest has found from its end.
func walkBack(a, b []string, steps [][]int) []edit {
	var all []edit
	x, y := len(a), len(b)
	for d := len(steps) - 1; d > 0; d-- {
		before := func(k int) int { // how far the step before came on k; -1 where it was not
			if k < -(d-1) || k > d-1 {
				return -1
			}
			return steps[d][k+d]
		}
		k := x - y
		from := k - 1
		if k == -d || k != d && before(k-1) < before(k+1) {
			from = k + 1
		}
		mx := before(from) // where this step's edit ended
		if from == k-1 {
			mx++
		}
		for x > mx {
			x, y = x-1, y-1
			all = append(all, edit{' ', a[x]})
		}
		if from == k+1 {
			y--
			all = append(all, edit{'+', b[y]})
		} else {
			x--
			all = append(all, edit{'-', a[x]})
		}
	}
	for x > 0 {
		x--
		all = append(all, edit{' ', a[x]})
	}
	slices.Reverse(all)
	return all
}

// unified returns what differs between two texts with some lines around, and false when
// they differ in too much to be compared. The texts' last lines need no line break.
func unified(from, to string) (string, bool) {
	edits, ok := diffLines(lines(from), lines(to))
	if !ok {
		return "", false
	}
	var out strings.Builder
	a, b := 1, 1 // the lines that come next
	for i := 0; i < len(edits); {
		if edits[i].kind == ' ' {
			i, a, b = i+1, a+1, b+1
			continue
		}
		begin := max(i-diffContext, 0)
		end, quiet := i, 0
		for j := i; j < len(edits) && quiet <= 2*diffContext; j++ {
			if quiet++; edits[j].kind != ' ' {
				end, quiet = j+1, 0
			}
		}
		stop := min(end+diffContext, len(edits))
		back := i - begin
		var hunk strings.Builder
		inA, inB := 0, 0
		for _, e := range edits[begin:stop] {
			fmt.Fprintf(&hunk, "%c%s\n", e.kind, e.line)
			if e.kind != '+' {
				inA++
			}
			if e.kind != '-' {
				inB++
			}
		}
		fmt.Fprintf(&out, "@@ -%s +%s @@\n%s", hunkPlace(a-back, inA), hunkPlace(b-back, inB), hunk.String())
		a, b, i = a-back+inA, b-back+inB, stop
	}
	return out.String(), true
}

// hunkPlace is the place of a hunk as patch reads it.
func hunkPlace(line, n int) string {
	switch n {
	case 0:
		return fmt.Sprintf("%d,0", line-1)
	case 1:
		return fmt.Sprint(line)
	default:
		return fmt.Sprintf("%d,%d", line, n)
	}
}

func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}
