package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

const (
	defaultTimeout   = 10 * time.Minute
	defaultKillGrace = 10 * time.Second
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
	rerun     rerunFlags
	results   resultFlags
	splay     splayFlags
	follow    followFlags
	timeout   time.Duration
	killGrace time.Duration
	ttl       time.Duration
	queue     time.Duration
	class     string
	script    string
	steps     stepFlags
	detach    bool
	locks     lockFlags
	waves     waveFlags
	files     fileFlags
	undo      undoFlags
	plan      bool
}

func (a *app) runCmd() *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use: "run --on SELECTOR [flags] -- ARGV…", Short: "run a program on agents, and follow it to its end",
		Long: runHelp,
		Args: cobra.ArbitraryArgs, Annotations: is(creates), ValidArgsFunction: a.completeRun,
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.rerun.given(cmd) {
				return a.runAgain(cmd, &f, args)
			}
			dash := cmd.ArgsLenAtDash()
			if len(args) > 0 && dash < 0 && strings.HasPrefix(args[0], "@") {
				return a.runTemplate(cmd, &f, args)
			}
			if len(args) > 0 && dash != 0 && f.files.stdin == "-" {
				return usagef("%q stands before --; --stdin takes a file as in --stdin=%s", args[0], args[0])
			}
			if len(args) > 0 && dash != 0 {
				return usagef("%q stands before --: write the program behind it, as in: agentctl run --on all -- uptime", args[0])
			}
			command, err := f.command(a, args, cmd.Flags().Changed("ttl"), cmd.Flags().Changed("queue"))
			if err != nil {
				return err
			}
			if err := f.check(a); err != nil {
				return err
			}
			if err := f.files.bring(a, command); err != nil {
				return err
			}
			if err := f.results.prepare(f.detach); err != nil {
				return err
			}
			return a.with(cmd.Context(), func(s *session) error {
				if f.plan {
					return a.showPlan(cmd.Context(), s, command)
				}
				return a.submit(cmd.Context(), s, &f, command)
			})
		},
	}
	f.add(c)
	f.rerun.add(c)
	f.files.add(c)
	f.results.add(c)
	f.follow.add(c)
	c.Flags().BoolVar(&f.detach, "detach", false, "return once the command is accepted")
	c.Flags().BoolVar(&f.plan, "plan", false, "only show who would run it, in which waves, what holds it back, and who cannot")
	return c
}

// add adds the flags that say what a command is.
func (f *runFlags) add(c *cobra.Command) {
	f.sel.add(c)
	f.splay.add(c)
	f.waves.add(c)
	f.undo.add(c)
	fl := c.Flags()
	durationVar(fl, &f.timeout, "timeout", defaultTimeout, "how long the program, or each step, may run")
	durationVar(fl, &f.killGrace, "kill-grace", defaultKillGrace, "how long between TERM and KILL")
	durationVar(fl, &f.ttl, "ttl", client.DefaultTTL, "how long it may wait to be started (24h with several waves)")
	durationVar(fl, &f.queue, "queue", 0, "as --ttl, and wait for agents that are offline, too")
	fl.StringVar(&f.class, "class", "at-most-once", "`CLASS`: at-most-once or idempotent (may start again after LOST)")
	fl.StringVar(&f.script, "script", "", "run this `FILE` (- is stdin) in the place of ARGV")
	f.steps.add(c)
	f.locks.add(c)
	_ = c.RegisterFlagCompletionFunc("class", cobra.FixedCompletions([]string{"at-most-once", "idempotent"}, cobra.ShellCompDirectiveNoFileComp))
}

const runHelp = `Run a program on agents, and follow it to its end.

  agentctl run --on 'label.role == "web"' -- uptime
  agentctl run --on @hosts.failed -- uptime        the agents in a file, one a line
  agentctl run --rerun failed COMMAND              once more, where it failed
  agentctl run @restart name=nginx --on all        a template, see "agentctl templates"
  agentctl run -l role=web --wave 1,100% \
    --step drain='lb drain $(hostname)' --step upgrade=@upgrade.sh --step-timeout upgrade=30m \
    --step reboot='touch "$AGENTPLANE_REBOOT" && systemctl reboot' --step check=@check.sh
  agentctl run --file ./nginx.conf:/etc/nginx/nginx.conf:0644 --on all -- nginx -s reload
  tar c site | agentctl run --stdin --on all -- tar x -C /srv

Results that are equal stand together, the largest group first; a text that differs from
that group's in some lines is shown as what differs. With --output-dir they go to files,
too: AGENT/stdout, AGENT/stderr, AGENT/exit and AGENT/state, and the lists hosts.succeeded,
hosts.failed, hosts.lost and so on, which --on @FILE takes. There the output is all that
nodes keep, byte for byte; of what they do not, AGENT/gaps says how much, where and why.

With --step several programs run one after the other, each started at most once, whatever
dies meanwhile; the first that does not succeed ends it. A program that makes the file
$AGENTPLANE_REBOOT announces a reboot of the host: when that comes, the program has
succeeded, and the next step follows once the host is back; when it has not gone down within
ten minutes (run.reboot_wait of agentd) it has failed (no_reboot). Each has also $AGENTPLANE_STEP,
its number, and $AGENTPLANE_STEP_NAME.

--file puts a file in place, whole or not at all, before the program or the first step starts: with the mode
that is given, or else that of the local file, in a directory that has to be there; what is
there is replaced. When one of several cannot be written none is changed, the program is not
started, and the attempt is FAILED(not_placed). --stdin gives the program, or the first step,
agentctl's own standard input, --stdin=FILE a file. Each has at most 16 MiB, and there are at most 16 files;
nodes keep them until the command has ended, and for a while (files.keep, a day) after it.

--rerun makes a new command with a new id, the program and the limits of the old one, on
those of its targets that ended so: failed (FAILED or TIMED_OUT), lost, expired, canceled,
rejected, skipped, or all-not-succeeded; several with commas. --timeout, --kill-grace,
--ttl and --queue change the limits. What was LOST may have run: it is started once more.
Of steps all are run again, from the first.

A change that may cut a host off carries its own way back:

  agentctl run --on 'name == "web-1"' --undo 'nft -f /etc/nft.old' --confirm-within 2m -- nft -f /etc/nft.new

When the program has succeeded, the host waits for "agentctl commands confirm COMMAND"; with
--confirm-by contact it waits until it has reached the cluster by a new connection: a node that
has a leader, and is not on the same host unless all nodes are. If that does not come in time
agentd runs the undo on its host, which needs no contact for it, and the end is FAILED (undone).
While agentd itself is dead nothing is undone: what is due then is undone once it is started
again, which systemd does at once (Restart=always in its unit). The undo runs at once when the program has begun and fails, times out, is
canceled or lost, and when the command is canceled while it waits. When the host is started
anew while it waits, the time begins once more; a second time it is undone at once. What waits
takes a slot, holds its locks, and counts as running in its wave. A host that is away for longer
than all this may take is LOST; when it comes back it waits for the rest of its time, in which it
can still be confirmed, and is undone then: that supersedes LOST.`

// command returns what is asked, but for its id.
func (f *runFlags) command(a *app, argv []string, ttlSet, queueSet bool) (*client.Command, error) {
	expr, agents, err := f.sel.meant(a)
	if err != nil {
		return nil, err
	}
	class, ok := classes[f.class]
	switch {
	case expr == "" && len(agents) == 0:
		return nil, usagef("nobody is meant: say --on SELECTOR (or --on all), or -l LABELS")
	case !ok:
		return nil, usagef("--class %q is neither at-most-once nor idempotent", f.class)
	case f.script != "" && len(argv) > 0:
		return nil, usagef("both --script and a program are given")
	case len(f.steps.timeouts) > 0 && len(f.steps.words) == 0:
		return nil, usagef("--step-timeout is given, and no --step")
	case f.steps.given() && (f.script != "" || len(argv) > 0):
		return nil, usagef("both --step and another program are given: make it one more --step")
	case f.script == "" && len(argv) == 0 && !f.steps.given():
		return nil, usagef("no program is given: write it behind --, as in: agentctl run --on all -- uptime")
	}
	wait, err := f.wait(ttlSet, queueSet)
	if err != nil {
		return nil, err
	}
	c := &client.Command{
		Selector: expr, Agents: agents, Argv: argv, RunTimeout: f.timeout, KillGrace: f.killGrace,
		TTL: wait, Queue: queueSet, Delivery: class, Edit: f.edit,
	}
	if err := f.prepare(a); err != nil {
		return nil, err
	}
	if err := f.steps.prepare(a); err != nil {
		return nil, err
	}
	c.Steps = f.steps.steps
	if f.script != "" {
		if c.Script, err = a.readScript("--script", f.script); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// check says whether what is to be seen of the command goes together.
func (f *runFlags) check(a *app) error {
	switch {
	case f.plan && f.detach:
		return usagef("--plan and --detach are both given: a plan starts nothing")
	case f.plan && f.follow.follow:
		return usagef("--plan and --follow are both given: a plan starts nothing")
	case f.plan && f.results.dir != "":
		return usagef("--plan and --output-dir are both given: a plan has no results")
	}
	return f.follow.check(a, f.detach)
}

// prepare checks the flags that edit puts into the spec, before anybody is asked.
func (f *runFlags) prepare(a *app) error {
	if err := f.waves.prepare(a); err != nil {
		return err
	}
	if err := f.undo.prepare(a, f.class); err != nil {
		return err
	}
	return f.edit(&agentplanev1.CommandSpec{})
}

// edit puts the flags that stand in files of their own into the spec.
func (f *runFlags) edit(spec *agentplanev1.CommandSpec) error {
	for _, into := range []func(*agentplanev1.CommandSpec) error{f.locks.into, f.splay.into, f.waves.into, f.undo.into} {
		if err := into(spec); err != nil {
			return err
		}
	}
	return nil
}

// wait returns how long the command may wait to be started, and checks all limits.
func (f *runFlags) wait(ttlSet, queueSet bool) (time.Duration, error) {
	if ttlSet && queueSet {
		return 0, usagef("--ttl and --queue are both given: --queue D says how long it may wait, offline agents included")
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
			return 0, usagef("%s %v is too short", d.flag, d.value)
		}
	}
	return wait, nil
}

func (a *app) readScript(flag, path string) ([]byte, error) {
	r, err := a.open(flag, path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
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

func (a *app) submit(ctx context.Context, s *session, f *runFlags, command *client.Command) error {
	command.ID = a.flags.id
	r, err := s.Submit(ctx, command)
	f.files.told.end()
	id := command.ID
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
		a.tellTerms(r.Command)
		return printOne(a, toObject(r.Command), func(w io.Writer) { fmt.Fprintln(w, id) })
	}
	a.talk("command %s on %s", id, count(int(r.Command.GetTargets()), "agent"))
	if f.follow.follow {
		return a.attach(ctx, s, id, "", &f.results)
	}
	return a.follow(ctx, s, id, &f.results)
}

// follow watches a command to its end and prints its results.
func (a *app) follow(ctx context.Context, s *session, id string, results *resultFlags) error {
	p := newProgress(a, isTerminal(a.stderr))
	defer p.end()
	printed := map[string]bool{}
	var stopped stops
	var waiting waits
	held := newHoldups(ctx, s, p.say)
	defer held.end()
	c, err := s.Await(ctx, id, func(v *client.Progress) error {
		p.show(v)
		stopped.take(p.say, v.Command())
		waiting.take(p.say, v.Command())
		held.take(v.Command())
		if a.flags.output != "jsonl" {
			return nil
		}
		for _, i := range v.Invocations() {
			if client.Final(i.State) && !printed[i.Id] {
				printed[i.Id] = true
				if err := writeJSONLine(a.stdout, toObject(i)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	held.end()
	p.end()
	if err != nil {
		return detached(ctx, id, err)
	}
	if _, err := results.write(ctx, a, s, c); err != nil {
		return err
	}
	if a.flags.output != "jsonl" {
		if err := a.printResults(c); err != nil {
			return err
		}
	}
	return verdict(c)
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
func verdict(c *agentplanev1.Command) error {
	bad := 0
	for _, i := range c.Invocations {
		if i.State != agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED {
			bad++
		}
	}
	if bad == 0 {
		return nil
	}
	return &failure{
		code: exitInvocations, err: fmt.Errorf("%d of %s did not succeed", bad, count(len(c.Invocations), "invocation")),
		hint: fmt.Sprintf("see \"agentctl commands get %s\", or \"agentctl why %s AGENT\"; once more there: agentctl run --rerun all-not-succeeded %s", c.Id, c.Id, c.Id),
	}
}
