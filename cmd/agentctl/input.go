package main

import (
	"fmt"
	"io"
	"os"
)

// fromStdin returns agentctl's standard input, which one alone can read: a second one
// would find nothing there.
func (a *app) fromStdin(flag string) (io.Reader, error) {
	if a.stdinOf != "" {
		return nil, usagef("%s and %s both want the standard input of agentctl: give one of them a file", a.stdinOf, flag)
	}
	a.stdinOf = flag
	return a.stdin, nil
}

// open opens the file that a flag names; - is stdin.
func (a *app) open(flag, path string) (io.ReadCloser, error) {
	if path == "-" {
		r, err := a.fromStdin(flag)
		return io.NopCloser(r), err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, unreadable(flag, err)
	}
	if st, err := file.Stat(); err == nil && st.IsDir() {
		_ = file.Close()
		return nil, unreadable(flag, fmt.Errorf("%q is a directory", path))
	}
	return file, nil
}
