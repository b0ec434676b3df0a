package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agentplane/agentplane/proto/client"
)

func (a *app) contextCmd() *cobra.Command {
	c := &cobra.Command{Use: "context", Short: "choose between clusters"}
	one := args(1, 1, "the name of a context")
	c.AddCommand(
		&cobra.Command{
			Use: "list", Short: "list the contexts", Args: args(0, 0, ""), Annotations: is(offline), RunE: a.contextList,
		},
		&cobra.Command{
			Use: "current", Short: "print the name of the current context", Args: args(0, 0, ""), Annotations: is(offline), RunE: a.contextCurrent,
		},
		&cobra.Command{
			Use: "use NAME", Short: "make a context the current one", Args: one, Annotations: is(offline),
			ValidArgsFunction: a.completeContexts, RunE: a.contextUse,
		},
		&cobra.Command{
			Use: "delete NAME", Short: "delete a context with its key; the operator stays in the cluster", Args: one, Annotations: is(offline),
			ValidArgsFunction: a.completeContexts, RunE: a.contextDelete,
		},
	)
	return c
}

// store keeps a context, and says when another one was the current one.
func (a *app) store(file *client.Contexts, c *client.Context) error {
	before, err := file.Current()
	if err != nil {
		return err
	}
	if err := file.Store(c); err != nil {
		return err
	}
	if before != "" && before != c.Name {
		a.talk("note: the current context is %q now; it was %q: agentctl context use %s", c.Name, before, before)
	}
	return nil
}

// contextRow is a context without its secrets.
func contextRow(c *client.Context, current string) object {
	return object{
		{"name", c.Name},
		{"current", c.Name == current},
		{"clusterId", c.ClusterID},
		{"operator", c.Operator},
		{"role", c.Role},
		{"addresses", append([]string{}, c.Addresses...)},
	}
}

func (a *app) contextList(*cobra.Command, []string) error {
	file, err := a.contexts()
	if err != nil {
		return err
	}
	current, err := file.Current()
	if err != nil {
		return err
	}
	var all []*client.Context
	_, err = file.Find(func(c *client.Context) bool {
		all = append(all, c)
		return false
	})
	if err != nil {
		return err
	}
	objects := make([]object, len(all))
	for i, c := range all {
		objects[i] = contextRow(c, current)
	}
	return printObjects(a, objects, func(w io.Writer) {
		writeTable(w, a.flags.output == "wide", all, []column[*client.Context]{
			{"NAME", false, func(c *client.Context) string { return c.Name }},
			{"CURRENT", false, func(c *client.Context) string { return yesNo(c.Name == current) }},
			{"CLUSTER", false, func(c *client.Context) string { return c.ClusterID }},
			{"OPERATOR", false, func(c *client.Context) string { return c.Operator }},
			{"ROLE", false, func(c *client.Context) string { return c.Role }},
			{"ADDRESSES", true, func(c *client.Context) string { return strings.Join(c.Addresses, ",") }},
		})
	})
}

func (a *app) contextCurrent(*cobra.Command, []string) error {
	file, err := a.contexts()
	if err != nil {
		return err
	}
	c, err := file.Load("")
	if err != nil {
		return err
	}
	return printOne(a, contextRow(c, c.Name), func(w io.Writer) { fmt.Fprintln(w, printable(c.Name)) })
}

func (a *app) contextUse(_ *cobra.Command, args []string) error {
	file, err := a.contexts()
	if err != nil {
		return err
	}
	if err := file.Use(args[0]); err != nil {
		return err
	}
	return a.done(object{{"current", args[0]}}, "context %s is the current one", args[0])
}

func (a *app) contextDelete(_ *cobra.Command, args []string) error {
	file, err := a.contexts()
	if err != nil {
		return err
	}
	current, err := file.Current()
	if err != nil {
		return err
	}
	if err := file.Delete(args[0]); err != nil {
		return err
	}
	if current == args[0] {
		a.talk("note: it was the current one; choose another: agentctl context use NAME")
	}
	return a.done(object{{"deleted", args[0]}}, "context %s is deleted", args[0])
}

func (a *app) completeContexts(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	file, err := a.contexts()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names, _ := file.Names() // no file, no names
	return names, cobra.ShellCompDirectiveNoFileComp
}
