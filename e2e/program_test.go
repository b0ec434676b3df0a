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
	"syscall"
	"time"
)

// programArg makes the test binary be the program that agents run.
const programArg = "be-the-program"

// program is what agents run in these tests: it writes down that it was started, in a
// file that the product knows nothing of, and makes it durable before it goes on.
//
//	DIR [--sleep D] [--exit N] [--part N|undo] [--file PATH]… [--stdin]
//
// The file is DIR/AGENT_ID, opened with O_APPEND, one line "INVOCATION ATTEMPT" for
// each start, written by one write. On a guest (TestGuest) it is a file of the machine
// that the guest runs on. A part of an attempt, a step or the undo, adds what it is and has
// found to its line, and writes a further one before it ends (deed).
func program(args []string) int {
	flags := flag.NewFlagSet(programArg, flag.ExitOnError)
	sleep := flags.Duration("sleep", 0, "")
	exit := flags.Int("exit", 0, "")
	part := flags.String("part", "", "")
	input := flags.Bool("stdin", false, "")
	var files []string
	flags.Func("file", "", func(path string) error {
		files = append(files, path)
		return nil
	})
	if err := flags.Parse(args[1:]); err != nil {
		return 99
	}
	var begins, ends *deed
	if *part != "" {
		begins, ends = newDeed(*part), &deed{Part: *part, Ends: true, Code: *exit}
		begins.find(files, *input)
	}
	if err := bearWitness(args[0], begins); err != nil {
		fmt.Fprintln(os.Stderr, "witness:", err)
		return 98
	}
	fmt.Println("started", os.Getenv("AGENTPLANE_INVOCATION_ID"))
	time.Sleep(*sleep)
	if ends == nil {
		return *exit
	}
	if err := bearWitness(args[0], ends); err != nil {
		fmt.Fprintln(os.Stderr, "witness:", err)
		return 98
	}
	return *exit
}

// bearWitness writes that the attempt of this program was started, or what else it did.
func bearWitness(dir string, d *deed) error {
	agent, invocation, attempt := os.Getenv("AGENTPLANE_AGENT_ID"), os.Getenv("AGENTPLANE_INVOCATION_ID"), os.Getenv("AGENTPLANE_ATTEMPT")
	if agent == "" || invocation == "" || attempt == "" {
		return fmt.Errorf("agent %q, invocation %q, attempt %q: the environment says too little", agent, invocation, attempt)
	}
	line := fmt.Sprintf("%s %s", invocation, attempt)
	if d != nil {
		text, err := d.line()
		if err != nil {
			return err
		}
		line += " " + text
	}
	if port := filepath.Join(dir, witnessPort); canOpen(port) {
		return tellPort(port, agent, line)
	}
	return appendLine(filepath.Join(dir, agent), line)
}

func appendLine(file, line string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Sync(), f.Close())
}

// witnessPort is where, in the directory, a serial port lies, on a host that has one: what is
// told there is written down elsewhere, out of the host's reach, and answered by the same line.
const witnessPort = "port"

func canOpen(port string) bool {
	_, err := os.Stat(port)
	return err == nil
}

// tellPort has one program at a time tell: the port is open once.
func tellPort(port, agent, line string) error {
	f, err := os.OpenFile(port, os.O_RDWR, 0)
	for errors.Is(err, syscall.EBUSY) {
		time.Sleep(time.Millisecond)
		f, err = os.OpenFile(port, os.O_RDWR, 0)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "%s %s\n", agent, line); err != nil {
		return err
	}
	for answers := bufio.NewScanner(f); answers.Scan(); {
		if answers.Text() == line { // not the answer to one that was killed as it told
			return nil
		}
	}
	return errors.New("nobody answers at the port")
}

// start names one attempt.
type start struct {
	invocation string
	attempt    int
}

// readWitnesses counts, over all agents, how often each attempt was started.
func readWitnesses(dir string) (map[start]int, error) {
	starts := make(map[start]int)
	err := eachWitnessed(dir, func(at start, d *deed) {
		if d == nil || d.first() {
			starts[at]++
		}
	})
	return starts, err
}

// eachWitnessed gives every line of every agent, in the order in which an agent's programs
// wrote them.
func eachWitnessed(dir string, each func(start, *deed)) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, file := range files {
		f, err := os.Open(filepath.Join(dir, file.Name()))
		if err != nil {
			return err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			at, d, err := parseWitness(lines.Text())
			if err != nil {
				return errors.Join(fmt.Errorf("witness %s says %q: %w", f.Name(), lines.Text(), err), f.Close())
			}
			each(at, d)
		}
		if err := errors.Join(lines.Err(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// parseWitness reads one line; the deed is nil when it only says that the attempt was started.
func parseWitness(line string) (start, *deed, error) {
	invocation, rest, _ := strings.Cut(line, " ")
	number, text, more := strings.Cut(rest, " ")
	attempt, err := strconv.Atoi(number)
	if err != nil || invocation == "" {
		return start{}, nil, errors.Join(errors.New("that names no attempt"), err)
	}
	var d *deed
	if more {
		d, err = parseDeed(text)
	}
	return start{invocation, attempt}, d, err
}
