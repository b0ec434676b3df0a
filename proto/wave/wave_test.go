package wave

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		text, want string
		err        string
	}{
		{"1,5%,25%,100%", "1,5%,25%,100%", ""},
		{" 1 , 0.25% ", "1,0.25%,100%", ""},
		{"12.5%", "12.5%,100%", ""},
		{"label.ring=canary,label.ring=early", "label.ring=canary,label.ring=early,100%", ""},
		{"label.x=", "label.x=,100%", ""},
		{"100%", "100%", ""},
		{"1,,2", "", `wave 2: "" is neither a count nor a percentage`},
		{"0", "", `"0" is nobody`},
		{"0%", "", `"0%" is nobody`},
		{"101%", "", `"101%" is not a percentage`},
		{"1.234%", "", "with two decimals at most"},
		{"1.%", "", "is not a percentage"},
		{"-1", "", "neither a count nor a percentage"},
		{"label.ring", "", "not of the form label.NAME=VALUE"},
		{"ring=canary", "", "neither a count"},
		{"5%,5%", "", "wave 2, 5%, is not above those before it"},
		{"9,3", "", "wave 2, 3, is not above those before it"},
		{"100%,3", "", "wave 3, 100%, is not above"}, // nobody is left for it
	} {
		shares, err := Parse(c.text)
		if err == nil {
			shares = Complete(shares)
			err = Check(shares)
		}
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: %v, want an error that says %q", c.text, err, c.err)
			}
			continue
		}
		var words []string
		for _, s := range shares {
			words = append(words, s.String())
		}
		if got := strings.Join(words, ","); err != nil || got != c.want {
			t.Errorf("%q is %q (%v), want %q", c.text, got, err, c.want)
		}
	}
	if err := Check(make([]Share, MaxWaves+1)); err == nil || !strings.Contains(err.Error(), "maximum") {
		t.Errorf("too many waves: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("1,5%,25%,100%")
	f.Add("label.a=b,0.5%")
	f.Fuzz(func(t *testing.T, text string) {
		shares, err := Parse(text)
		if err != nil {
			return
		}
		var words []string
		for _, s := range shares {
			words = append(words, s.String())
		}
		again, err := Parse(strings.Join(words, ","))
		if err != nil || !slices.Equal(shares, again) {
			t.Fatalf("%q is %v, and written again %v (%v)", text, shares, again, err)
		}
	})
}

func TestLay(t *testing.T) {
	for _, c := range []struct {
		name, waves, targets string // targets: a letter each, s = skipped, 1..9 = has the label of that wave
		ranks, ends          string
	}{
		{"shares round up", "1,50%,100%", "-----", "[1 2 3 4 5]", "[1 3 5]"},
		{"skipped ones make no wave larger", "50%,100%", "ss--s-", "[0 0 1 2 0 3]", "[2 3]"},
		{"a share below what has been released is empty", "3,10%,100%", "----", "[1 2 3 4]", "[3 3 4]"},
		{"a label takes everybody who has it", "label.a=b,100%", "--1-1", "[3 4 1 5 2]", "[2 5]"},
		{"who is in an earlier wave stays there", "2,label.a=b,100%", "2--2-", "[1 2 4 3 5]", "[2 3 5]"},
		{"a label of which all are skipped", "label.a=b,100%", "-s", "[1 0]", "[0 1]"},
		{"labels count towards shares", "label.a=b,50%,100%", "-11-", "[3 1 2 4]", "[2 2 4]"},
		{"nobody", "1,100%", "ss", "[0 0]", "[0 0]"},
		{"more than there are", "9,100%", "--", "[1 2]", "[2 2]"},
	} {
		shares, err := Parse(c.waves)
		if err != nil {
			t.Fatal(err)
		}
		var targets []Target
		for _, letter := range c.targets {
			at := Target{Skipped: letter == 's'}
			if letter >= '1' && letter <= '9' {
				at.Label = int(letter - '0')
			}
			targets = append(targets, at)
		}
		ranks, ends := Lay(shares, targets)
		if fmt.Sprint(ranks) != c.ranks || fmt.Sprint(ends) != c.ends {
			t.Errorf("%s: %s over %s = %v %v, want %s %s", c.name, c.waves, c.targets, ranks, ends, c.ranks, c.ends)
		}
	}
}

// waveOf is the wave that a rank is in, from 1; 0 for rank 0.
func waveOf(ends []uint32, rank uint32) int {
	if rank == 0 {
		return 0
	}
	for n, end := range ends {
		if rank <= end {
			return n + 1
		}
	}
	return 0
}

func drawShares(t *rapid.T) []Share {
	var shares []Share
	count, points := uint32(0), uint32(0)
	for range rapid.IntRange(0, 4).Draw(t, "waves") {
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 0:
			count += rapid.Uint32Range(1, 5).Draw(t, "count")
			shares = append(shares, Share{Count: count})
		case 1:
			if points += rapid.Uint32Range(1, 4000).Draw(t, "points"); points < Whole {
				shares = append(shares, Share{BasisPoints: points})
			}
		default:
			shares = append(shares, Share{Label: "l", Value: "v"})
		}
	}
	shares = Complete(shares)
	if err := Check(shares); err != nil {
		t.Fatal(err)
	}
	return shares
}

// TestLayGivesEachItsPlace holds Lay to what its comment says.
func TestLayGivesEachItsPlace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shares := drawShares(t)
		targets := make([]Target, rapid.IntRange(0, 30).Draw(t, "targets"))
		size := uint32(0)
		for i := range targets {
			targets[i].Skipped = rapid.IntRange(0, 3).Draw(t, "skipped") == 0
			if n := rapid.IntRange(0, len(shares)).Draw(t, "label"); n > 0 && shares[n-1].Label != "" {
				targets[i].Label = n
			}
			if !targets[i].Skipped {
				size++
			}
		}
		ranks, ends := Lay(shares, targets)
		seen := make(map[uint32]bool)
		for i, rank := range ranks {
			if (rank == 0) != targets[i].Skipped || rank > size || rank != 0 && seen[rank] {
				t.Fatalf("rank %d for %v in %v", rank, targets[i], ranks)
			}
			seen[rank] = true
			if l := targets[i].Label; rank != 0 && l != 0 && waveOf(ends, rank) > l {
				t.Fatalf("target %d has the label of wave %d and is in wave %d", i, l, waveOf(ends, rank))
			}
		}
		if !slices.IsSorted(ends) || ends[len(ends)-1] != size {
			t.Fatalf("ends %v of %d", ends, size)
		}
		for n, s := range shares {
			if s.Label == "" && ends[n] < s.Of(size) {
				t.Fatalf("wave %d of %v ends at %d of %d", n+1, shares, ends[n], size)
			}
		}
	})
}

func TestNextAndBreach(t *testing.T) {
	const minute = int64(time.Minute)
	three := []uint32{1, 3, 3, 6} // the third wave is empty
	for _, c := range []struct {
		name string
		at   State
		now  int64
		want Step
		why  string
	}{
		{"the first wave", State{Ends: three, Pending: 6}, 0, Step{Kind: Release, Wave: 1, Release: 1}, ""},
		{"the rest of a wave that was released in part", State{Ends: three, Wave: 2, Waiting: 2, Pending: 5}, 0, Step{Kind: Release, Wave: 2, Release: 2}, ""},
		{"something in flight", State{Ends: three, Wave: 1, Pending: 5, Running: 1}, 0, Step{}, ""},
		{"the soak", State{Ends: three, Wave: 1, Pending: 5, Settled: 1, Soak: time.Minute}, 1 + minute/2, Step{Wait: time.Minute / 2}, ""},
		{"the gate", State{Ends: three, Wave: 1, Pending: 5, Settled: 1, Soak: time.Minute}, 1 + minute, Step{Kind: Gate, Wave: 2, Release: 2}, ""},
		{"an empty wave is passed over", State{Ends: three, Wave: 2, Pending: 3, Settled: 1}, 1, Step{Kind: Gate, Wave: 4, Release: 3}, ""},
		{"a probe that has not ended", State{Ends: three, Wave: 1, Pending: 5, Settled: 1, Probing: true}, 1, Step{}, ""},
		{"paused", State{Ends: three, Wave: 1, Pending: 5, Settled: 1, Stopped: true}, 1, Step{}, ""},
		{"after the last wave", State{Ends: three, Wave: 4, Settled: 1}, 1, Step{}, ""},
		{"as many failures as may be", State{Ends: three, Wave: 1, Pending: 5, Settled: 1, Limited: true, Max: 1, Failures: 1}, 1, Step{Kind: Gate, Wave: 2, Release: 2}, ""},
		{"one more", State{Ends: three, Wave: 1, Pending: 5, Settled: 1, Limited: true, Max: 1, Failures: 2, Stopped: true}, 1, Step{}, MaxFailures},
		{"one more, and nothing left to stop", State{Ends: three, Wave: 4, Running: 2, Limited: true, Max: 1, Failures: 2}, 1, Step{}, ""},
		{"one more, and what is released can be stopped", State{Ends: three, Wave: 4, Released: 1, Limited: true, Max: 1, Failures: 2, Stopped: true}, 1, Step{}, MaxFailures},
		{"strict releases what may fail", State{Ends: []uint32{9}, Pending: 9, Limited: true, Strict: true, Max: 2}, 0, Step{Kind: Release, Wave: 1, Release: 2}, ""},
		{"strict waits for what is in flight", State{Ends: []uint32{9}, Wave: 1, Waiting: 7, Pending: 7, Running: 1, Released: 1, Limited: true, Strict: true, Max: 2}, 0, Step{}, ""},
		{"strict with one failure left", State{Ends: []uint32{9}, Wave: 1, Waiting: 7, Pending: 7, Failures: 1, Limited: true, Strict: true, Max: 2}, 0, Step{Kind: Release, Wave: 1, Release: 1}, ""},
		{"strict with none left", State{Ends: []uint32{9}, Wave: 1, Waiting: 7, Pending: 7, Failures: 2, Limited: true, Strict: true, Max: 2}, 0, Step{}, Strict},
		{"strict with none left and all released", State{Ends: []uint32{2}, Wave: 1, Failures: 2, Limited: true, Strict: true, Max: 2}, 0, Step{}, ""},
	} {
		if got, why := c.at.Next(c.now), c.at.Breach(); got != c.want || why != c.why {
			t.Errorf("%s: %+v is due, breach %q; want %+v, %q", c.name, got, why, c.want, c.why)
		}
	}
}

// TestRollouts plays random rollouts, in which anything may fail at any time, by the
// engine alone: strict is never overshot, nothing is released after a breach, and what
// is not stopped comes to its end.
func TestRollouts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Uint32Range(1, 40).Draw(t, "size")
		targets := make([]Target, size)
		_, ends := Lay(drawShares(t), targets)
		s := State{
			Ends: ends, Pending: size, Limited: rapid.Bool().Draw(t, "limited"), Max: rapid.Uint32Range(0, 6).Draw(t, "max"),
			Soak: time.Duration(rapid.IntRange(0, 3).Draw(t, "soak")) * time.Second,
		}
		s.Strict = s.Limited && s.Max > 0 && rapid.Bool().Draw(t, "strict")
		failing := rapid.IntRange(0, 10).Draw(t, "of ten fail")
		now, succeeded := int64(1), uint32(0)
		for steps := 0; s.Pending+s.Released+s.Running > 0; steps++ {
			if steps > 2000 {
				t.Fatalf("goes on for ever: %+v", s)
			}
			step := s.Next(now)
			switch {
			case step.Kind != Hold:
				if s.Breach() != "" {
					t.Fatalf("%+v is due after a breach: %+v", step, s)
				}
				if step.Kind == Gate && (s.Released+s.Running > 0 || now < s.Settled+int64(s.Soak)) {
					t.Fatalf("wave %d comes too early: %+v", step.Wave, s)
				}
				if step.Wave != s.Wave {
					s.Waiting, s.Wave, s.Settled = s.size(step.Wave), step.Wave, 0
				}
				n := min(step.Release, rapid.Uint32Range(1, 20).Draw(t, "at once"))
				s.Waiting, s.Pending, s.Released = s.Waiting-n, s.Pending-n, s.Released+n
			case step.Wait > 0:
				now += int64(step.Wait)
			case s.Released > 0 && rapid.Bool().Draw(t, "claims"):
				s.Released, s.Running = s.Released-1, s.Running+1
			case s.Running > 0:
				s.Running--
				if rapid.IntRange(1, 10).Draw(t, "ends") <= failing {
					s.Failures++
				} else {
					succeeded++
				}
			case s.Released > 0:
				s.Released, s.Running = s.Released-1, s.Running+1
			default:
				t.Fatalf("nothing is due, nothing in flight, and %d are pending: %+v", s.Pending, s)
			}
			if s.Strict && s.Failures+s.Released+s.Running > s.Max {
				t.Fatalf("strict: %d failed and %d are in flight, %d may fail", s.Failures, s.Released+s.Running, s.Max)
			}
			if s.Breach() != "" {
				return // somebody else stops it, at once
			}
			if s.Over() && s.Settled == 0 {
				s.Settled = now
			}
		}
		if s.Failures+succeeded != size || s.Limited && s.Failures > s.Max && s.Pending+s.Released > 0 {
			t.Fatalf("%d of %d have ended: %+v", s.Failures+succeeded, size, s)
		}
	})
}

func TestCover(t *testing.T) {
	traits := [][]string{
		{"linux", "1", "web"}, {"linux", "1", "web"}, {"linux", "2", "web"}, {"linux", "1", "db"}, {"bsd", "2", "db"}, {"linux", "1", "db"},
	}
	for _, c := range []struct {
		first int
		order string
		left  int
	}{
		{6, "[0 2 3 4 1 5]", 0},
		{4, "[0 2 3 4 1 5]", 0},
		{3, "[0 4 2 3 1 5]", 1}, // the fourth target shows three new words, the others one each
		{2, "[0 4 2 3 1 5]", 2},
		{0, "[0 2 3 4 1 5]", 4},
	} {
		if order, left := Cover(traits, c.first); fmt.Sprint(order) != c.order || left != c.left {
			t.Errorf("with %d in the first wave: %v, %d left; want %s, %d", c.first, order, left, c.order, c.left)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		var all [][]string
		for range rapid.IntRange(0, 20).Draw(t, "n") {
			all = append(all, []string{rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "os"), rapid.SampledFrom([]string{"1", "2"}).Draw(t, "version")})
		}
		first := rapid.IntRange(0, 20).Draw(t, "first")
		order, left := Cover(all, first)
		shown := make(map[string]bool)
		for n, i := range order {
			if n < first {
				shown[strings.Join(all[i], "/")] = true
			}
		}
		distinct := make(map[string]bool)
		for _, words := range all {
			distinct[strings.Join(words, "/")] = true
		}
		if len(distinct)-len(shown) != left {
			t.Fatalf("%d of %d combinations are shown, %d left", len(shown), len(distinct), left)
		}
		if slices.Sort(order); len(order) != len(all) || len(slices.Compact(order)) != len(all) {
			t.Fatalf("order %v is no permutation of %d", order, len(all))
		}
	})
}

func TestProbeIDBelongsToItsWave(t *testing.T) {
	const command = "01b8dac5-b407-7638-857d-100997e584a2"
	one, two := ProbeID(command, 1), ProbeID(command, 2)
	if one == two || one != ProbeID(command, 1) || one[:13] != command[:13] {
		t.Fatalf("%s and %s: not as old as the command, or not of the wave", one, two)
	}
	if id, err := uuid.Parse(one); err != nil || id.Version() != 7 || id.String() != one {
		t.Fatalf("%s is no UUIDv7: %v", one, err)
	}
	if want := "01b8dac5-b407-7101-bcd1-7cace6e50f46"; one != want {
		t.Fatalf("%s, want %s: agents and nodes of other versions would not agree", one, want)
	}
	if ProbeID("no id", 1) != "" {
		t.Fatal("what is no id has a probe")
	}
}
