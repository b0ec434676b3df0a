package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Lab is a set of processes in one directory.
type Lab struct {
	Dir  string
	Bin  Binaries
	User string // the directory that stands for an operator's home
	// NodeEnv is added to the environment of nodes, AgentEnv to that of agents.
	NodeEnv, AgentEnv []string

	mu     sync.Mutex // guards what follows
	nodes  []*Node
	agents []*Agent
}

// New returns a lab in an empty directory.
func New(dir string, bin Binaries) (*Lab, error) {
	l := &Lab{Dir: dir, Bin: bin, User: filepath.Join(dir, "operator")}
	for _, d := range []string{l.User, filepath.Join(dir, "logs")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("make the lab: %w", err)
		}
	}
	return l, nil
}

// Node is a node's process.
type Node struct {
	Process
	DataDir string
}

// Agent is an agent's process.
type Agent struct {
	Process
	DataDir string
}

// environ is that of a process without settings of the one who runs the lab.
func environ(extra ...string) []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "AGENTPLANE_") && !strings.HasPrefix(v, "AGENTCTL_") {
			env = append(env, v)
		}
	}
	return append(env, extra...)
}

// Node adds a node with a name; it is not started. It listens on free ports of
// loopback and keeps them over its starts.
func (l *Lab) Node(name string, args ...string) *Node {
	n := &Node{DataDir: filepath.Join(l.Dir, name)}
	n.Process = Process{
		Name: name, Log: filepath.Join(l.Dir, "logs", name+".log"), path: l.Bin.Agentplane, env: environ(l.NodeEnv...),
		args: append([]string{
			"run", "--data-dir", n.DataDir, "--name", name, "--listen", "127.0.0.1:0", "--advertise", "127.0.0.1",
			"--gossip-listen", "127.0.0.1:0", "--gossip-advertise", "127.0.0.1",
		}, args...),
	}
	l.mu.Lock()
	l.nodes = append(l.nodes, n)
	l.mu.Unlock()
	return n
}

// Address waits until the running node has bound its port, and answers the address.
func (n *Node) Address(ctx context.Context) (string, error) {
	var a struct{ Advertise string }
	err := Await(ctx, func() error {
		b, err := os.ReadFile(filepath.Join(n.DataDir, "addresses.json"))
		if err != nil {
			if !n.Running() {
				return fmt.Errorf("%w: %s has ended; see %s", errGiveUp, n.Name, n.Log)
			}
			return err
		}
		return json.Unmarshal(b, &a)
	})
	return a.Advertise, err
}

// Agent adds an agent with a name; it is not started. The token is needed for its
// first start only.
func (l *Lab) Agent(name, servers, token string, args ...string) *Agent {
	a := &Agent{DataDir: filepath.Join(l.Dir, name)}
	a.Process = Process{
		Name: name, Log: filepath.Join(l.Dir, "logs", name+".log"), path: l.Bin.Agentd, env: environ(l.AgentEnv...),
		args: append([]string{"run", "--data-dir", a.DataDir, "--name", name, "--servers", servers, "--token", token}, args...),
	}
	l.mu.Lock()
	l.agents = append(l.agents, a)
	l.mu.Unlock()
	return a
}

// Output is what a run of agentctl came to.
type Output struct {
	Stdout, Stderr string
	Code           int
}

// Err is nil when the command succeeded.
func (o Output) Err() error {
	if o.Code == 0 {
		return nil
	}
	if said := strings.TrimSpace(o.Stderr); said != "" {
		return fmt.Errorf("agentctl exited with %d: %s", o.Code, said)
	}
	return fmt.Errorf("agentctl exited with %d", o.Code)
}

// Ctl runs agentctl as the lab's operator.
func (l *Lab) Ctl(ctx context.Context, args ...string) Output {
	return l.CtlAs(ctx, "agentctl.yaml", args...)
}

// CtlAs runs agentctl with another file of contexts.
func (l *Lab) CtlAs(ctx context.Context, contexts string, args ...string) Output {
	cmd := exec.CommandContext(ctx, l.Bin.Agentctl, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = environ("AGENTCTL_CONFIG="+filepath.Join(l.User, contexts), "HOME="+l.User)
	err := cmd.Run()
	o := Output{Stdout: stdout.String(), Stderr: stderr.String()}
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		o.Code = exit.ExitCode()
	default:
		o.Code, o.Stderr = -1, err.Error()
	}
	return o
}

// Cluster starts one node for each name, makes the first a cluster and lets the
// others join. It returns when all are there.
func (l *Lab) Cluster(ctx context.Context, names []string, args ...string) ([]*Node, error) {
	var nodes []*Node
	for _, name := range names {
		nodes = append(nodes, l.Node(name, args...))
	}
	return nodes, l.Found(ctx, nodes)
}

// Found starts nodes that were added, makes the first a cluster and lets the others
// join.
func (l *Lab) Found(ctx context.Context, nodes []*Node) error {
	for _, n := range nodes {
		if err := n.Start(); err != nil {
			return err
		}
	}
	first, err := nodes[0].Address(ctx)
	if err != nil {
		return err
	}
	if o := l.Ctl(ctx, "cluster", "init", "--data-dir", nodes[0].DataDir); o.Err() != nil {
		return o.Err()
	}
	for _, n := range nodes[1:] {
		if _, err := n.Address(ctx); err != nil {
			return err
		}
		token, err := l.Token(ctx, "node")
		if err != nil {
			return err
		}
		if o := l.Ctl(ctx, "cluster", "join", first, "--token", token, "--data-dir", n.DataDir); o.Err() != nil {
			return o.Err()
		}
	}
	return nil
}

// Token makes a join token.
func (l *Lab) Token(ctx context.Context, kind string, args ...string) (string, error) {
	o := l.Ctl(ctx, append([]string{"tokens", "create", "--kind", kind, "-o", "json"}, args...)...)
	if o.Err() != nil {
		return "", o.Err()
	}
	var t struct{ Token string }
	if err := json.Unmarshal([]byte(o.Stdout), &t); err != nil || t.Token == "" {
		return "", fmt.Errorf("agentctl tokens create printed no token (%w): %s", err, o.Stdout)
	}
	return t.Token, nil
}

// Member is a node as "agentctl cluster members" shows it.
type Member struct {
	ID, Name, Address, State string
	Leader, Voter            bool
}

// Members asks the cluster for its nodes.
func (l *Lab) Members(ctx context.Context, args ...string) ([]Member, error) {
	o := l.Ctl(ctx, append([]string{"cluster", "members", "-o", "json"}, args...)...)
	if o.Err() != nil {
		return nil, o.Err()
	}
	var members []Member
	if err := json.Unmarshal([]byte(o.Stdout), &members); err != nil {
		return nil, fmt.Errorf("read the members: %w: %s", err, o.Stdout)
	}
	return members, nil
}

// Leader waits for a leader and answers its process.
func (l *Lab) Leader(ctx context.Context) (*Node, error) {
	var leader *Node
	err := Await(ctx, func() error {
		members, err := l.Members(ctx, "--request-timeout", "3s")
		if err != nil {
			return err
		}
		for _, m := range members {
			for _, n := range l.Nodes() {
				if m.Leader && m.Name == n.Name {
					leader = n
					return nil
				}
			}
		}
		return errors.New("no member leads")
	})
	return leader, err
}

// Nodes are those that were added.
func (l *Lab) Nodes() []*Node {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*Node(nil), l.nodes...)
}

// Agents are those that were added.
func (l *Lab) Agents() []*Agent {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*Agent(nil), l.agents...)
}

// errGiveUp says that waiting longer is of no use.
var errGiveUp = errors.New("given up")

// Await tries until the condition has no error, or the context ends.
func Await(ctx context.Context, condition func() error) error {
	for {
		err := condition()
		if err == nil || errors.Is(err, errGiveUp) {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%w; waited until: %w", err, context.Cause(ctx))
		}
	}
}

// Close kills whatever runs in the lab: its processes, and what agents left behind.
func (l *Lab) Close() {
	for _, a := range l.Agents() {
		a.Kill()
	}
	for _, n := range l.Nodes() {
		n.Signal(syscall.SIGCONT)
		n.Kill()
	}
	for _, pid := range l.leftovers() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}
