package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

const (
	// hostsPrefix begins the names of the lists of agents in a directory of results.
	hostsPrefix = "hosts."
	// commandFile holds the command as -o json prints it.
	commandFile = "command.json"
)

// resultFlags say where results go beside stdout.
type resultFlags struct{ dir string }

func (f *resultFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.dir, "output-dir", "", "write the results to files in `DIR`, too, which is made and must be empty")
}

// prepare makes the directory: a mistake is told before anything is asked of anybody.
// Results of two commands in one directory would be taken for those of one.
func (f *resultFlags) prepare(detached bool) error {
	if f.dir == "" {
		return nil
	}
	if detached {
		return usagef("--output-dir and --detach are both given: who does not wait sees no results; later: agentctl commands output COMMAND --output-dir %s", f.dir)
	}
	if err := os.MkdirAll(f.dir, 0o777); err != nil {
		return usagef("--output-dir: %w", err)
	}
	d, err := os.Open(f.dir)
	if err != nil {
		return usagef("--output-dir: %w", err)
	}
	defer d.Close()
	if names, _ := d.Readdirnames(1); len(names) > 0 {
		return usagef("--output-dir %q is not empty: it has %q; results of two commands would mix", f.dir, names[0])
	}
	return nil
}

// write writes what is known of the command's invocations, and all that nodes keep of
// their output. It answers of how many more may be had later.
func (f *resultFlags) write(ctx context.Context, a *app, s *session, c *agentplanev1.Command) (later int, err error) {
	if f.dir == "" {
		return 0, nil
	}
	// Nothing is written outside of it, whatever agents are called.
	root, err := os.OpenRoot(f.dir)
	if err != nil {
		return 0, fmt.Errorf("write the results: %w", err)
	}
	defer root.Close()
	dirs, err := writeResults(root, c)
	if err == nil {
		later, err = a.writeOutput(ctx, s, root, dirs, c)
	}
	if err != nil {
		return 0, fmt.Errorf("write the results to %q: %w", f.dir, err)
	}
	a.talk("results of %s are in %s", count(len(c.Invocations), "agent"), filepath.Clean(f.dir))
	return later, nil
}

// writeOutput writes the output of each invocation into its directory.
func (a *app) writeOutput(ctx context.Context, s *session, root *os.Root, dirs []string, c *agentplanev1.Command) (later int, err error) {
	o, err := newResultOutput(root, dirs, c.Invocations)
	if err != nil {
		return 0, err
	}
	if err := o.fetch(ctx, s, c.Id); err != nil {
		return 0, err
	}
	some, later := o.incomplete()
	if some > 0 {
		a.talk("note: the output of %s is not all there: AGENT/%s says what is missing", count(some, "agent"), gapsFile)
	}
	return later, nil
}

// writeResults writes all but the output, and answers the directory of each invocation.
func writeResults(root *os.Root, c *agentplanev1.Command) (dirs []string, err error) {
	var whole bytes.Buffer
	if err := encode(&whole, "json", toObject(c)); err != nil {
		return nil, err
	}
	if err := root.WriteFile(commandFile, whole.Bytes(), 0o666); err != nil {
		return nil, err
	}
	dirs = fileNames(c.Invocations)
	for n, i := range c.Invocations {
		if err := root.Mkdir(dirs[n], 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		files := []struct{ name, text string }{{"state", ending(i) + "\n"}}
		if code, exited := exitCode(i); exited {
			files = append(files, struct{ name, text string }{"exit", fmt.Sprintln(code)})
		}
		for _, file := range files {
			if err := root.WriteFile(filepath.Join(dirs[n], file.name), []byte(file.text), 0o666); err != nil {
				return nil, err
			}
		}
	}
	for _, list := range hostLists(c.Invocations) {
		if err := root.WriteFile(hostsPrefix+list.word, []byte(list.text), 0o666); err != nil {
			return nil, err
		}
	}
	return dirs, nil
}

// fileNames returns a name of a directory for each invocation: that of its agent where it
// is safe and nobody else's, else the agent's id, else its number. Agents choose their
// names; none becomes a path, a hidden file, or one of ours, and two that differ in case
// alone are two on every file system.
func fileNames(invocations []*agentplanev1.Invocation) []string {
	claims := map[string]int{}
	for _, i := range invocations {
		claims[strings.ToLower(i.AgentName)]++
	}
	names := make([]string, len(invocations))
	taken := map[string]bool{}
	for n, i := range invocations {
		_, number, _ := strings.Cut(i.Id, ".")
		for _, name := range []string{i.AgentName, i.AgentId, "agent-" + number, fmt.Sprintf("agent-%d-of-%d", n+1, len(invocations))} {
			low := strings.ToLower(name)
			if safeName(name) && !taken[low] && (name == i.AgentId || claims[low] <= 1) {
				names[n] = name
				taken[low] = true
				break
			}
		}
	}
	return names
}

func safeName(s string) bool {
	return identity.ValidateName(s) == nil && s[0] != '.' && s[0] != '-' &&
		!strings.HasPrefix(strings.ToLower(s), hostsPrefix) && !strings.EqualFold(s, commandFile)
}

type hostList struct{ word, text string }

// hostLists returns the agents by how it ended there, one a line, as --on @FILE reads
// them; every list is there, also when it is empty.
func hostLists(invocations []*agentplanev1.Invocation) []hostList {
	claims := map[string]int{}
	for _, i := range invocations {
		claims[i.AgentName]++
	}
	named := func(i *agentplanev1.Invocation) string {
		if identity.ValidateName(i.AgentName) == nil && claims[i.AgentName] == 1 {
			return i.AgentName
		}
		return i.AgentId
	}
	list := func(word string, meant func(agentplanev1.AttemptState) bool) hostList {
		var b strings.Builder
		for _, i := range invocations {
			if meant(i.State) && i.AgentId+i.AgentName != "" {
				fmt.Fprintln(&b, named(i))
			}
		}
		return hostList{word, b.String()}
	}
	lists := []hostList{
		list("succeeded", func(s agentplanev1.AttemptState) bool { return s == agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED }),
		list("not-ended", func(s agentplanev1.AttemptState) bool { return !client.Final(s) }),
	}
	for _, word := range rerunWords() {
		lists = append(lists, list(word, func(s agentplanev1.AttemptState) bool { return slices.Contains(client.RerunWords[word], s) }))
	}
	return lists
}
