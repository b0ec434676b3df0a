package main

import (
	"cmp"
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agentplane/agentplane/configs"
)

// program is one call of agentd.
type program struct {
	environ        []string
	stdout, stderr io.Writer
}

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "agentd",
		Short:         "the host agent of agentplane",
		Version:       versionText(),
		Args:          noArguments,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usagef("%v", err) })
	root.AddCommand(p.runCmd(), p.versionCmd())
	return root
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var known []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			known = append(known, c.Name())
		}
	}
	if len(known) == 0 {
		return usagef("%s takes no arguments, %q was given", cmd.CommandPath(), args[0])
	}
	return usagef("%s has no %q; there are: %s", cmd.CommandPath(), args[0], strings.Join(known, ", "))
}

func versionText() string {
	return fmt.Sprintf("agentd %s (%s %s/%s)", cmp.Or(version, "dev"), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func (p *program) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the version",
		Args:  noArguments,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(p.stdout, versionText())
			return err
		},
	}
}

func (p *program) runCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "run the agent until it is told to stop",
		Long: `run enrols this host with a join token, the first time, and then serves its cluster.

  agentd run --data-dir /var/lib/agentd --servers A:7460,B:7460 --token T

Run again with an enrolled data directory it needs neither servers nor token. Programs
that run when agentd stops go on, and are found again at the next start.

An agent that was removed, or readmitted after a clone, enrols again when it is started
with a new token: its id stays, its key is a new one.`,
		Args: noArguments,
	}
	file := cmd.Flags().String("config", "", "YAML `FILE` to read; flags and the environment are stronger")
	flags := configs.BindFlags(cmd.Flags(), configs.ProgramAgent)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return p.agent(cmd.Context(), configs.Sources{Program: configs.ProgramAgent, Flags: flags, Environ: p.environ, File: *file})
	}
	return cmd
}
