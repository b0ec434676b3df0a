package main

import (
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"
)

func versionText() string {
	return fmt.Sprintf("agentctl %s (%s %s/%s)", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version of this program", Args: args(0, 0, ""), Annotations: is(offline),
		RunE: func(*cobra.Command, []string) error {
			o := object{{"version", version}, {"go", runtime.Version()}, {"platform", runtime.GOOS + "/" + runtime.GOARCH}}
			return printOne(a, o, func(w io.Writer) {
				fmt.Fprintln(w, versionText())
			})
		},
	}
}
