package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"testing"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/client/clienttest"
	"github.com/agentplane/agentplane/proto/template"
)

// exampleTB lets examples use a cluster that is made for tests.
type exampleTB struct {
	testing.TB
	cleanups []func()
}

func (e *exampleTB) Helper()          {}
func (e *exampleTB) Cleanup(f func()) { e.cleanups = append(e.cleanups, f) }
func (e *exampleTB) Fatal(a ...any)   { log.Fatal(a...) }

// exampleCluster is a cluster in this process: on web-1 and web-2 everything succeeds, on
// db-1 it fails.
func exampleCluster() (*client.Client, func()) {
	tb := &exampleTB{}
	cluster := clienttest.NewCluster(tb, 3)
	web := map[string]string{"role": "web"}
	cluster.State.AddAgent("web-1", "ONLINE", web, clienttest.Behaviour{Stdout: "hello from web-1\n"})
	cluster.State.AddAgent("web-2", "ONLINE", web, clienttest.Behaviour{Stdout: "hello from web-2\n"})
	cluster.State.AddAgent("db-1", "ONLINE", nil, clienttest.Behaviour{
		State: agentplanev1.AttemptState_ATTEMPT_STATE_FAILED, ExitCode: 3, Reason: "exit", Stderr: "no space left\n",
	})
	c, err := client.New(cluster.Options())
	if err != nil {
		log.Fatal(err)
	}
	return c, func() {
		_ = c.Close()
		for _, f := range tb.cleanups {
			f()
		}
	}
}

// A client of the context that agentctl uses.
func ExampleNew() {
	path, err := client.ContextsPath(func(string) string { return "/nowhere/agentctl.yaml" })
	if err != nil {
		log.Fatal(err)
	}
	context, err := client.OpenContexts(path).Load("") // the current one
	if errors.Is(err, client.ErrNoContext) {
		fmt.Println("log in first")
		return
	}
	if err != nil {
		log.Fatal(err)
	}
	opts, err := context.Options()
	if err != nil {
		log.Fatal(err)
	}
	c, err := client.New(opts)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	// Output: log in first
}

// Run a program and look at what became of it everywhere.
func ExampleClient_Run() {
	c, done := exampleCluster()
	defer done()
	result, err := c.Run(context.Background(), &client.Command{
		Selector: "all", Argv: []string{"df", "/"}, RunTimeout: time.Minute,
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, i := range result.Invocations {
		fmt.Printf("%s %s exit=%d %s%s", i.AgentName, i.State.ShortName(), i.ExitCode, i.Stdout.Head, i.Stderr.Head)
	}
	// Output:
	// db-1 FAILED exit=3 no space left
	// web-1 SUCCEEDED exit=0 hello from web-1
	// web-2 SUCCEEDED exit=0 hello from web-2
}

// When the outcome of a submission is not known, the same Command is submitted again: it
// has its id by then, and runs once.
func ExampleClient_Submit() {
	c, done := exampleCluster()
	defer done()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := &client.Command{Selector: `name == "web-1"`, Argv: []string{"systemctl", "restart", "nginx"}, TTL: 10 * time.Minute}
	for {
		s, err := c.Submit(ctx, cmd)
		if e := (*client.Error)(nil); errors.As(err, &e) && e.OutcomeUnknown && ctx.Err() == nil {
			continue
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("on", s.Command.Targets, "agent; stood before:", s.Repeated)
		break
	}
	// Output: on 1 agent; stood before: false
}

// Follow a command, and stop it when it goes wrong.
func ExampleClient_Await() {
	c, done := exampleCluster()
	defer done()
	ctx := context.Background()
	cmd := &client.Command{Selector: "all", Argv: []string{"apt-get", "-y", "upgrade"}}
	if _, err := c.Submit(ctx, cmd); err != nil {
		log.Fatal(err)
	}
	stopped := false
	result, err := c.Await(ctx, cmd.ID, func(p *client.Progress) error {
		for _, i := range p.Invocations() {
			if i.State == agentplanev1.AttemptState_ATTEMPT_STATE_FAILED && !stopped {
				stopped = true
				_, err := c.Cancel(ctx, cmd.ID)
				return err
			}
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.State.ShortName(), "stopped:", stopped)
	// Output: DONE stopped: true
}

// Run an earlier command again, on those of its targets where it failed.
func ExampleRerun() {
	c, done := exampleCluster()
	defer done()
	ctx := context.Background()
	first, err := c.Run(ctx, &client.Command{Selector: "all", Argv: []string{"df", "/"}})
	if err != nil {
		log.Fatal(err)
	}
	old, err := c.Command(ctx, first.Id)
	if err != nil {
		log.Fatal(err)
	}
	again, err := client.Rerun(old.Spec, client.RerunWords["failed"]...)
	if err != nil {
		log.Fatal(err)
	}
	result, err := c.Run(ctx, again)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(again.Argv, "on", result.Targets, "agent:", result.Invocations[0].AgentName)
	// Output: [df /] on 1 agent: db-1
}

// List what failed within the last day.
func ExampleClient_Commands() {
	c, done := exampleCluster()
	defer done()
	ctx := context.Background()
	for _, argv := range [][]string{{"uptime"}, {"df", "/"}} {
		if _, err := c.Run(ctx, &client.Command{Selector: "all", Argv: argv}); err != nil {
			log.Fatal(err)
		}
	}
	for cmd, err := range c.Commands(ctx, client.CommandQuery{
		Since:    time.Now().Add(-24 * time.Hour),
		Outcomes: client.RerunWords["failed"],
	}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(cmd.Summary, cmd.Counts["failed"], "of", cmd.Targets)
	}
	// Output:
	// [df /] 1 of 3
	// [uptime] 1 of 3
}

// List the agents of a role.
func ExampleClient_Agents() {
	c, done := exampleCluster()
	defer done()
	for agent, err := range c.Agents(context.Background(), `label.role == "web"`, false) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(agent.Name, agent.Health)
	}
	// Output:
	// web-1 ONLINE
	// web-2 ONLINE
}

// Prove what became of a command on an agent.
func ExampleClient_Why() {
	c, done := exampleCluster()
	defer done()
	ctx := context.Background()
	cmd := &client.Command{Selector: "all", Argv: []string{"df", "/"}}
	if _, err := c.Run(ctx, cmd); err != nil {
		log.Fatal(err)
	}
	proof, err := c.Why(ctx, cmd.ID, "db-1")
	if err != nil {
		log.Fatal(err)
	}
	for _, step := range proof.Transitions {
		fmt.Println(step.What, step.State.ShortName())
	}
	// Output:
	// submitted PENDING
	// released RELEASED
	// claimed CLAIMED
	// started RUNNING
	// result FAILED
}

// Errors carry what a program has to know.
func ExampleError() {
	c, done := exampleCluster()
	defer done()
	_, err := c.Command(context.Background(), "01890000-0000-7000-8000-000000000001")
	e := client.AsError(err)
	fmt.Println(e.Code, e.Reason, e.OutcomeUnknown)
	fmt.Println(e.Message)
	// Output:
	// NotFound no_command false
	// there is no command "01890000-0000-7000-8000-000000000001"
}

// Make a template, and run it with values.
func ExampleFromTemplate() {
	c, done := exampleCluster()
	defer done()
	ctx := context.Background()
	spec, err := template.Parse([]byte(`
argv: [systemctl, restart, "${service}"]
parameters:
  - {name: service, values: [nginx, redis]}
`))
	if err != nil {
		log.Fatal(err)
	}
	t, _, err := c.PutTemplate(ctx, "restart", spec, 0)
	if err != nil {
		log.Fatal(err)
	}
	cmd, err := client.FromTemplate(t, map[string]string{"service": "nginx"})
	if err != nil {
		log.Fatal(err)
	}
	cmd.Selector = `label.role == "web"`
	result, err := c.Run(ctx, cmd)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(cmd.Argv, result.Counts["succeeded"], "of", result.Targets)
	_, err = client.FromTemplate(t, map[string]string{"service": "sshd"})
	fmt.Println(err)
	// Output:
	// [systemctl restart nginx] 2 of 2
	// the value does not fit: service="sshd": it is none of nginx, redis
}
