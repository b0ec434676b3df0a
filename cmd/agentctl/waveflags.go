package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/wave"
)

// waveTTL is how long a command may wait to be started that goes in waves.
const waveTTL = 24 * time.Hour

var breaches = map[string]agentplanev1.OnBreach{
	"pause": agentplanev1.OnBreach_ON_BREACH_PAUSE,
	"abort": agentplanev1.OnBreach_ON_BREACH_ABORT,
}

// waveFlags say how a command goes over its targets, and when it stops.
type waveFlags struct {
	waves        []string
	soak         time.Duration
	gate         string
	probe        string
	probeScript  string
	probeTimeout time.Duration
	maxFailures  string
	strict       bool
	order        string
	onBreach     string

	changed func(flag string) bool
	rollout *agentplanev1.RolloutSpec
}

func (f *waveFlags) add(c *cobra.Command) {
	fl := c.Flags()
	f.changed = fl.Changed
	fl.StringSliceVar(&f.waves, "wave", nil, "go in `WAVES`: 1,5%,25%,100% (so many in all), or label.NAME=VALUE")
	durationVar(fl, &f.soak, "soak", 0, "how long to wait behind each wave")
	fl.StringVar(&f.gate, "gate", "health", "what a wave must leave behind before the next: `health` (no agent down or quarantined) or none")
	fl.StringVar(&f.probe, "probe", "", "run `'CMD ARGS'` where a wave has succeeded; the next follows when it succeeds everywhere")
	fl.StringVar(&f.probeScript, "probe-script", "", "as --probe, a `FILE`")
	durationVar(fl, &f.probeTimeout, "probe-timeout", wave.ProbeTimeout, "how long the probe may run")
	fl.StringVar(&f.maxFailures, "max-failures", "", "stop when more than `N` or P% have failed (0 with --wave, else any number)")
	fl.BoolVar(&f.strict, "strict", false, "never have more in flight than may still fail")
	fl.StringVar(&f.order, "order", "", "`ORDER`: coverage (first one host of every system, version and role), random or label:NAME")
	fl.StringVar(&f.onBreach, "on-breach", "pause", "what to do when too many have failed or a gate stays shut: `pause` or abort")
	for name, values := range map[string][]string{
		"order": {"coverage", "random", "label:"}, "on-breach": {"pause", "abort"}, "gate": {"health", "none"},
	} {
		_ = c.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
}

// given says that the flag stands in the line.
func (f *waveFlags) given(flag string) bool { return f.changed != nil && f.changed(flag) }

// several says that there is more than one wave.
func (f *waveFlags) several() bool { return len(f.waves) > 0 && strings.Join(f.waves, ",") != "100%" }

// into gives the spec its rollout, which prepare has made.
func (f *waveFlags) into(spec *agentplanev1.CommandSpec) error {
	spec.Rollout = f.rollout
	return nil
}

// prepare makes the rollout, when there is a reason for one.
func (f *waveFlags) prepare(a *app) error {
	for _, flag := range []string{"soak", "gate", "probe", "probe-script", "probe-timeout"} {
		if f.given(flag) && !f.several() {
			return usagef("--%s is about what comes between two waves: give --wave, as in --wave 1,10%%,100%%", flag)
		}
	}
	limit, err := f.limit()
	if err != nil {
		return err
	}
	if len(f.waves) == 0 && limit == nil {
		for _, flag := range []string{"strict", "order", "on-breach"} {
			if f.given(flag) {
				return usagef("--%s has no effect without --wave or --max-failures", flag)
			}
		}
		return nil
	}
	onBreach, known := breaches[f.onBreach]
	switch {
	case !known:
		return usagef("--on-breach %q is neither pause nor abort", f.onBreach)
	case f.strict && limit.GetCount() == 0 && limit.GetBasisPoints() == 0:
		return usagef("--strict needs a failure that may happen: give --max-failures 1 or more")
	case f.order != "" && f.order != "coverage" && f.order != "random" && (!strings.HasPrefix(f.order, "label:") || f.order == "label:"):
		return usagef("--order %q is none of coverage, random, label:NAME", f.order)
	case f.soak < 0 || f.probeTimeout <= 0:
		return usagef("--soak %v must not be below zero, and --probe-timeout %v above it", f.soak, f.probeTimeout)
	case f.gate != "health" && f.gate != "none":
		return usagef("--gate %q is neither health nor none", f.gate)
	}
	r := &agentplanev1.RolloutSpec{
		Soak: int64(f.soak), GateHealth: f.several() && f.gate == "health", MaxFailures: limit, Strict: f.strict, OnBreach: onBreach, Order: f.order,
	}
	if len(f.waves) > 0 {
		if r.Waves, err = f.specs(); err != nil {
			return err
		}
	}
	if r.Probe, err = f.probeSpec(a); err != nil {
		return err
	}
	f.rollout = r
	return nil
}

// limit is how many may fail; nil = any number.
func (f *waveFlags) limit() (*agentplanev1.FailureLimit, error) {
	if !f.given("max-failures") {
		if len(f.waves) == 0 {
			return nil, nil
		}
		return &agentplanev1.FailureLimit{}, nil
	}
	count, points, err := wave.ParseAmount(f.maxFailures)
	if err != nil {
		return nil, usagef("--max-failures: %w", err)
	}
	return &agentplanev1.FailureLimit{Count: count, BasisPoints: points}, nil
}

// specs are the waves, complete.
func (f *waveFlags) specs() ([]*agentplanev1.WaveSpec, error) {
	shares, err := wave.Parse(strings.Join(f.waves, ","))
	if err == nil {
		shares = wave.Complete(shares)
		err = wave.Check(shares)
	}
	if err != nil {
		return nil, usagef("--wave: %w", err)
	}
	var specs []*agentplanev1.WaveSpec
	for _, s := range shares {
		w := &agentplanev1.WaveSpec{Count: s.Count, BasisPoints: s.BasisPoints}
		if s.Label != "" {
			w.Label = &agentplanev1.Label{Name: s.Label, Value: s.Value}
		}
		specs = append(specs, w)
	}
	return specs, nil
}

func (f *waveFlags) probeSpec(a *app) (*agentplanev1.ProbeSpec, error) {
	switch {
	case f.probe != "" && f.probeScript != "":
		return nil, usagef("both --probe and --probe-script are given")
	case f.probeScript != "":
		script, err := a.readScript("--probe-script", f.probeScript)
		if err != nil {
			return nil, err
		}
		return &agentplanev1.ProbeSpec{Script: script, Timeout: int64(f.probeTimeout)}, nil
	case f.probe != "":
		argv, err := shellWords(f.probe)
		if err != nil {
			return nil, usagef("--probe %q: %w", f.probe, err)
		}
		return &agentplanev1.ProbeSpec{Argv: argv, Timeout: int64(f.probeTimeout)}, nil
	default:
		return nil, nil
	}
}

// shellWords divides a line into words as a shell does, of which it knows blanks, quotes
// and backslashes: it expands nothing.
func shellWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord, quote, escaped := false, rune(0), false
	for _, r := range line {
		switch {
		case escaped:
			if quote == '"' && r != '"' && r != '\\' {
				word.WriteByte('\\')
			}
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			inWord, escaped = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			inWord, quote = true, r
		case r == ' ' || r == '\t' || r == '\n':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		default:
			inWord = true
			word.WriteRune(r)
		}
	}
	switch {
	case quote != 0:
		return nil, fmt.Errorf("a quote %c is not closed", quote)
	case escaped:
		return nil, fmt.Errorf("it ends with a backslash")
	}
	if inWord {
		words = append(words, word.String())
	}
	if len(words) == 0 || words[0] == "" {
		return nil, fmt.Errorf("it names no program")
	}
	return words, nil
}
