package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

const (
	defaultTimeout   = 10 * time.Minute
	defaultKillGrace = 10 * time.Second
	defaultTTL       = 5 * time.Minute
	// A mutation may have 256 KiB; the rest is for what stands beside a script.
	maxScriptBytes = 240 << 10
)

var classes = map[string]agentplanev1.Delivery{
	"at-most-once": agentplanev1.Delivery_DELIVERY_AT_MOST_ONCE,
	"idempotent":   agentplanev1.Delivery_DELIVERY_IDEMPOTENT,
}

// runFlags is what a command is made of.
type runFlags struct {
	sel       selectorFlags
	timeout   time.Duration
	killGrace time.Duration
	ttl       time.Duration
	queue     time.Duration
	class     string
	script    string
	detach    bool
	waves     waveFlags
	plan      bool
}

func (a *app) runCmd() *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use: "run --on SELECTOR [flags] -- ARGV…", Short: "run a program on agents, and follow it to its end",
		Args: cobra.ArbitraryArgs, Annotations: is(creates),
		RunE: func(cmd *cobra.Command, args []string) error {
			dash := cmd.ArgsLenAtDash()
			if len(args) > 0 && dash != 0 {
				return usagef("%q stands before --: write the program behind it, as in: agentctl run --on all -- uptime", args[0])
			}
			spec, err := f.spec(a, args, cmd.Flags().Changed("ttl"), cmd.Flags().Changed("queue"))
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(s *session) error {
				if f.plan {
					return a.showPlan(cmd.Context(), s, spec)
				}
				return a.submit(cmd.Context(), s, &f, spec)
			})
		},
	}
	f.sel.add(c)
	f.waves.add(c)
	fl := c.Flags()
	durationVar(fl, &f.timeout, "timeout", defaultTimeout, "how long the program may run")
	durationVar(fl, &f.killGrace, "kill-grace", defaultKillGrace, "how long between TERM and KILL")
	durationVar(fl, &f.ttl, "ttl", defaultTTL, "how long it may wait to be started (24h with several waves)")
	durationVar(fl, &f.queue, "queue", 0, "as --ttl, and wait for agents that are offline, too")
	fl.StringVar(&f.class, "class", "at-most-once", "`CLASS`: at-most-once or idempotent (may start again after LOST)")
	fl.StringVar(&f.script, "script", "", "run this `FILE` (- is stdin) in the place of ARGV")
	fl.BoolVar(&f.detach, "detach", false, "return once the command is accepted")
	fl.BoolVar(&f.plan, "plan", false, "only show who would run it, in which waves, and who cannot")
	_ = c.RegisterFlagCompletionFunc("class", cobra.FixedCompletions([]string{"at-most-once", "idempotent"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// spec returns what is asked, but for what only the cluster knows. NotAfter holds
// a span until stamp makes it a time.
func (f *runFlags) spec(a *app, argv []string, ttlSet, queueSet bool) (*agentplanev1.CommandSpec, error) {
	expr, err := f.sel.expression()
	if err != nil {
		return nil, err
	}
	class, ok := classes[f.class]
	switch {
	case expr == "":
		return nil, usagef("nobody is meant: say --on SELECTOR (or --on all), or -l LABELS")
	case !ok:
		return nil, usagef("--class %q is neither at-most-once nor idempotent", f.class)
	case ttlSet && queueSet:
		return nil, usagef("--ttl and --queue are both given: --queue D says how long it may wait, offline agents included")
	case f.script != "" && len(argv) > 0:
		return nil, usagef("both --script and a program are given")
	case f.script == "" && len(argv) == 0:
		return nil, usagef("no program is given: write it behind --, as in: agentctl run --on all -- uptime")
	}
	wait := f.ttl
	switch {
	case queueSet:
		wait = f.queue
	case !ttlSet && f.waves.several():
		wait = waveTTL
	}
	for _, d := range []struct {
		flag  string
		value time.Duration
		least time.Duration
	}{
		{"--timeout", f.timeout, time.Nanosecond}, {"--kill-grace", f.killGrace, 0}, {"--ttl or --queue", wait, time.Nanosecond},
	} {
		if d.value < d.least {
			return nil, usagef("%s %v is too short", d.flag, d.value)
		}
	}
	spec := &agentplanev1.CommandSpec{
		Selector: expr, Argv: argv, RunTimeout: int64(f.timeout), KillGrace: int64(f.killGrace),
		NotAfter: int64(wait), Delivery: class, QueueOffline: queueSet,
	}
	if f.script != "" {
		if spec.Script, err = a.readScript("--script", f.script); err != nil {
			return nil, err
		}
	}
	return spec, f.waves.into(a, spec)
}

func (a *app) readScript(flag, path string) ([]byte, error) {
	r := a.stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, usagef("%s: %w", flag, err)
		}
		defer file.Close()
		r = file
	}
	script, err := io.ReadAll(io.LimitReader(r, maxScriptBytes+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read script %q: %w", path, err)
	case len(script) == 0:
		return nil, usagef("%s %q is empty", flag, path)
	case len(script) > maxScriptBytes:
		return nil, usagef("%s %q is above the maximum of %d bytes; let it fetch what is large", flag, path, maxScriptBytes)
	}
	return script, nil
}

// stamp completes the spec and returns the envelope's exact bytes. Times count
// from the one within the id, so that the same call with the same --id gives the
// same bytes and answers what stands.
func stamp(spec *agentplanev1.CommandSpec, info *agentplanev1.InfoResponse, id string) ([]byte, error) {
	base, err := idTime(id)
	if err != nil {
		return nil, err
	}
	spec.ClusterId, spec.Incarnation, spec.CommandId = info.ClusterId, info.Incarnation, id
	spec.NotAfter += base.UnixNano()
	exact := proto.MarshalOptions{Deterministic: true}
	data, err := exact.Marshal(spec)
	if err != nil {
		return nil, err
	}
	return exact.Marshal(&agentplanev1.Envelope{Spec: data})
}

func (a *app) submit(ctx context.Context, s *session, f *runFlags, spec *agentplanev1.CommandSpec) error {
	info, err := s.info(ctx)
	if err != nil {
		return err
	}
	id, err := a.chosenID(info.Now)
	if err != nil {
		return err
	}
	envelope, err := stamp(spec, info, id)
	if err != nil {
		return err
	}
	r, err := agentplanev1.NewCommandServiceClient(s).Submit(ctx, &agentplanev1.SubmitRequest{Envelope: envelope})
	if err != nil {
		if code, _ := classify(err); code == exitUnknown {
			return &failure{code: code, err: fmt.Errorf("command %s: %w", id, err), hint: fmt.Sprintf(
				"it may run; look with %q, or repeat the same line with --id %s: it runs once", "agentctl commands get "+id, id)}
		}
		return err
	}
	if r.Repeated {
		a.talk("command %s stood already", id)
	}
	for _, note := range r.Notes {
		a.talk("%s", note)
	}
	if f.detach {
		return printOne(a, toObject(r.Command), func(w io.Writer) { fmt.Fprintln(w, id) })
	}
	a.talk("command %s on %s", id, count(int(r.Command.GetTargets()), "agent"))
	return a.follow(ctx, s, id)
}

// follow watches a command to its end and prints its results.
func (a *app) follow(ctx context.Context, s *session, id string) error {
	p := newProgress(a, isTerminal(a.stderr))
	defer p.end()
	view := newCommandView()
	printed := map[string]bool{}
	var stopped stops
	err := s.WatchCommand(ctx, &agentplanev1.WatchCommandRequest{Id: id, WithOutput: true}, func(r *agentplanev1.WatchCommandResponse) error {
		view.take(r)
		p.show(view)
		stopped.take(p.say, view.command)
		if a.flags.output != "jsonl" {
			return nil
		}
		for _, i := range view.sorted() {
			if final(i.State) && !printed[i.Id] {
				printed[i.Id] = true
				if err := writeJSONLine(a.stdout, toObject(i)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	p.end()
	if err != nil {
		return detached(ctx, id, err)
	}
	if a.flags.output != "jsonl" {
		if err := a.printResults(view); err != nil {
			return err
		}
	}
	return view.verdict(id)
}

// detached says what goes on without us.
func detached(ctx context.Context, id string, err error) error {
	hint := fmt.Sprintf("watch it: agentctl commands watch %s; or cancel it: agentctl commands cancel %s", id, id)
	if ctx.Err() != nil {
		return &failure{code: exitError, err: fmt.Errorf("interrupted; command %s goes on", id), hint: hint}
	}
	code, _ := classify(err)
	if code == exitUnavailable {
		// The command was accepted: what became of it is what is not known.
		return &failure{code: exitUnknown, err: fmt.Errorf("command %s was accepted; its end was not seen: %w", id, err), hint: hint}
	}
	return err
}

func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// verdict is the error of a command of which some invocations did not succeed.
func (v *commandView) verdict(id string) error {
	bad := 0
	for _, i := range v.invocations {
		if i.State != agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED {
			bad++
		}
	}
	if bad == 0 {
		return nil
	}
	return &failure{
		code: exitInvocations, err: fmt.Errorf("%d of %s did not succeed", bad, count(len(v.invocations), "invocation")),
		hint: fmt.Sprintf("see \"agentctl commands get %s\", or \"agentctl why %s AGENT\"", id, id),
	}
}
