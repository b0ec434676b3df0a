package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/client/clienttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type clusterKey struct{}

// TestScripts runs the stories in testdata against a cluster of three nodes each.
// The words that they know beside testscript's own:
//
//	agentctl ARGS…           run the program; it must exit with 0
//	fails CODE ARGS…         run the program; it must exit with CODE, print two
//	                         lines of error, and nothing on stdout unless CODE is 7
//	                         or what was asked for is a diagnosis
//	agent NAME HEALTH [k=v]… register an agent
//	behave NAME KEY=VALUE…   register an agent that answers so
//	down N, freeze N, thaw N what happens to a node
//	drift N                  a node holds another state than the others
//	refuse N CODE REASON [unknown]  what a node answers to everything
//	node NAME                a further node joins
//	login NAME               a context of that operator, who is a viewer
//	hold LOCK LEASE          somebody takes a place of a lock
//	breaks LOCK              its holders lose their places in half a second
//	undo COMMAND [AFTER]     what waits for a confirmation is undone, now or after a while
//	leaderless               the status is what each node knows by itself
//	socket DIR               serve LocalService on DIR/admin.sock
//	large FILE BYTES         make a file so large
//	capture NAME             keep stdout in a variable
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			cluster := clienttest.NewCluster(t, 3)
			env.Defer(func() {
				for _, n := range cluster.Nodes {
					n.Kill()
				}
			})
			env.Values[clusterKey{}] = cluster
			path := filepath.Join(env.WorkDir, ".config", "agentctl.yaml")
			env.Setenv("AGENTCTL_CONFIG", path)
			env.Setenv("CLUSTER", cluster.ID)
			for i, n := range cluster.Nodes {
				env.Setenv(fmt.Sprint("ADDR", i), n.Address)
			}
			if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
				return err
			}
			return client.OpenContexts(path).Store(cluster.Context("admin", time.Hour, 24*time.Hour))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"agentctl": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg {
					ts.Fatalf("use fails CODE")
				}
				if code, _, stderr := call(ts, args); code != exitOK {
					ts.Fatalf("exit %d\n%s", code, stderr)
				}
			},
			"fails": func(ts *testscript.TestScript, _ bool, args []string) {
				code, stdout, stderr := call(ts, args[1:])
				if !slices.Contains(strings.Split(args[0], "|"), strconv.Itoa(code)) {
					ts.Fatalf("exit %d, want %s\n%s%s", code, args[0], stdout, stderr)
				}
				lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
				n := len(lines)
				if n < 2 || !strings.HasPrefix(lines[n-2], "agentctl: error: ") || !strings.HasPrefix(lines[n-1], "agentctl: hint: ") {
					ts.Fatalf("stderr does not end with an error and a hint:\n%s", stderr)
				}
				if stdout != "" && code != exitInvocations && !slices.Contains(args, "--why") {
					ts.Fatalf("stdout on failure:\n%s", stdout)
				}
			},
			"agent":  func(ts *testscript.TestScript, _ bool, args []string) { register(ts, args[0], args[1], args[2:], nil) },
			"behave": func(ts *testscript.TestScript, _ bool, args []string) { register(ts, args[0], "ONLINE", nil, args[1:]) },
			"down":   func(ts *testscript.TestScript, _ bool, args []string) { node(ts, args[0]).Kill() },
			"freeze": func(ts *testscript.TestScript, _ bool, args []string) { node(ts, args[0]).Freeze() },
			"thaw":   func(ts *testscript.TestScript, _ bool, args []string) { node(ts, args[0]).Thaw() },
			"drift":  func(ts *testscript.TestScript, _ bool, args []string) { fake(ts).State.Drift(node(ts, args[0]).ID) },
			"refuse": func(ts *testscript.TestScript, _ bool, args []string) {
				var code codes.Code
				ts.Check(code.UnmarshalJSON([]byte(strconv.Quote(args[1]))))
				unknown := len(args) > 3
				err := clienttest.Detailed(code, "refused: "+args[2], &agentplanev1.ErrorDetail{Reason: args[2], OutcomeUnknown: unknown})
				node(ts, args[0]).Break(func(context.Context, string) (error, bool) { return err, unknown })
			},
			"node": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Setenv("NEWADDR", fake(ts).AddNode(args[0]).Address)
			},
			"hold": func(ts *testscript.TestScript, _ bool, args []string) { fake(ts).State.HoldLock(args[0], args[1]) },
			"breaks": func(ts *testscript.TestScript, _ bool, args []string) {
				state, name := fake(ts).State, args[0]
				timer := time.AfterFunc(500*time.Millisecond, func() { state.BreakLeases(name) })
				ts.Defer(func() { timer.Stop() })
			},
			"undo": func(ts *testscript.TestScript, _ bool, args []string) {
				state := fake(ts).State
				if len(args) == 1 {
					state.Undo(args[0])
					return
				}
				after, err := time.ParseDuration(args[1])
				ts.Check(err)
				timer := time.AfterFunc(after, func() { state.Undo(args[0]) })
				ts.Defer(func() { timer.Stop() })
			},
			"leaderless": func(ts *testscript.TestScript, _ bool, _ []string) { fake(ts).State.SetLeaderless() },
			"socket":     func(ts *testscript.TestScript, _ bool, args []string) { serveSocket(ts, args[0]) },
			"large": func(ts *testscript.TestScript, _ bool, args []string) {
				n, err := strconv.Atoi(args[1])
				ts.Check(err)
				ts.Check(os.WriteFile(args[0], make([]byte, n), 0o600))
			},
			"capture": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
			},
		},
	})
}

func fake(ts *testscript.TestScript) *clienttest.Cluster {
	return ts.Value(clusterKey{}).(*clienttest.Cluster)
}

func node(ts *testscript.TestScript, n string) *clienttest.Node {
	i, err := strconv.Atoi(n)
	ts.Check(err)
	return fake(ts).Nodes[i]
}

func call(ts *testscript.TestScript, args []string) (code int, stdout, stderr string) {
	var out, errs strings.Builder
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	code = run(ctx, args, ts.Getenv, strings.NewReader("#!/bin/sh\necho from stdin\n"), &out, &errs)
	_, _ = ts.Stdout().Write([]byte(out.String()))
	_, _ = ts.Stderr().Write([]byte(errs.String()))
	return code, out.String(), errs.String()
}

func register(ts *testscript.TestScript, name, health string, labels, behaviour []string) {
	m := map[string]string{}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		m[k] = v
	}
	var b clienttest.Behaviour
	for _, l := range behaviour {
		k, v, _ := strings.Cut(l, "=")
		switch k {
		case "exit":
			n, err := strconv.Atoi(v)
			ts.Check(err)
			b.ExitCode, b.State = int32(n), agentplanev1.AttemptState_ATTEMPT_STATE_FAILED
		case "stdout":
			b.Stdout = strings.ReplaceAll(v, `\n`, "\n")
		case "stderr":
			b.Stderr = strings.ReplaceAll(v, `\n`, "\n")
		case "total":
			n, err := strconv.ParseUint(v, 10, 64)
			ts.Check(err)
			b.TotalBytes = n
		case "step":
			n, err := strconv.Atoi(v)
			ts.Check(err)
			b.Step = n
		case "after":
			d, err := time.ParseDuration(v)
			ts.Check(err)
			b.After = d
		default:
			ts.Fatalf("behave: %q?", k)
		}
	}
	fake(ts).State.AddAgent(name, health, m, b)
}

func serveSocket(ts *testscript.TestScript, dir string) {
	dir = ts.MkAbs(dir)
	ts.Check(os.MkdirAll(dir, 0o700))
	// As a node does: through the opened directory, for the path may be long.
	d, err := os.Open(dir)
	ts.Check(err)
	defer d.Close()
	l, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), client.LocalSocket))
	ts.Check(err)
	s := fake(ts).Local()
	go func() { _ = s.Serve(l) }()
	ts.Defer(s.Stop)
}
