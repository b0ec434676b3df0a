package e2e

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// programArg makes the test binary be the program that agents run.
const programArg = "be-the-program"

// program is what agents run in these tests: it writes down that it was started, in a
// file that the product knows nothing of, and makes it durable before it goes on.
//
//	DIR [--sleep D] [--exit N]
//
// The file is DIR/AGENT_ID, opened with O_APPEND, one line "INVOCATION ATTEMPT" for
// each start, written by one write.
func program(args []string) int {
	flags := flag.NewFlagSet(programArg, flag.ExitOnError)
	sleep := flags.Duration("sleep", 0, "")
	exit := flags.Int("exit", 0, "")
	if err := flags.Parse(args[1:]); err != nil {
		return 99
	}
	if err := bearWitness(args[0]); err != nil {
		fmt.Fprintln(os.Stderr, "witness:", err)
		return 98
	}
	fmt.Println("started", os.Getenv("AGENTPLANE_INVOCATION_ID"))
	time.Sleep(*sleep)
	return *exit
}

func bearWitness(dir string) error {
	agent, invocation, attempt := os.Getenv("AGENTPLANE_AGENT_ID"), os.Getenv("AGENTPLANE_INVOCATION_ID"), os.Getenv("AGENTPLANE_ATTEMPT")
	if agent == "" || invocation == "" || attempt == "" {
		return fmt.Errorf("agent %q, invocation %q, attempt %q: the environment says too little", agent, invocation, attempt)
	}
	f, err := os.OpenFile(filepath.Join(dir, agent), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s %s\n", invocation, attempt)
	return errors.Join(err, f.Sync(), f.Close())
}

// start names one attempt.
type start struct {
	invocation string
	attempt    int
}

// readWitnesses counts, over all agents, how often each attempt was started.
func readWitnesses(dir string) (map[start]int, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	starts := make(map[start]int)
	for _, file := range files {
		f, err := os.Open(filepath.Join(dir, file.Name()))
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			invocation, number, _ := strings.Cut(lines.Text(), " ")
			attempt, err := strconv.Atoi(number)
			if err != nil || invocation == "" {
				return nil, fmt.Errorf("witness %s says %q", f.Name(), lines.Text())
			}
			starts[start{invocation, attempt}]++
		}
		if err := errors.Join(lines.Err(), f.Close()); err != nil {
			return nil, err
		}
	}
	return starts, nil
}
