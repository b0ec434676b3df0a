package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// partUndo is the part of an attempt that takes the others back.
const partUndo = "undo"

// deed is what a part of an attempt, a step or the undo, has witnessed: that it begins, or that
// it is about to end.
type deed struct {
	// Part is what the program was told that it is: the number of a step, 1 for the only
	// program, or undo. Step, Name and Cause are what the environment says.
	Part  string
	Step  string `json:",omitempty"`
	Name  string `json:",omitempty"`
	Cause string `json:",omitempty"`
	Ends  bool   `json:",omitempty"`
	// Code is with what it ends.
	Code int `json:",omitempty"`
	// Uptime is that of the host.
	Uptime time.Duration
	// Found is the SHA-256 of each file that was asked for, and of the standard input, or why
	// there is none.
	Found map[string]string `json:",omitempty"`
}

// foundInput is the key of the standard input in what is found.
const foundInput = "stdin"

// newDeed is of a program that begins.
func newDeed(part string) *deed {
	return &deed{Part: part, Step: os.Getenv("AGENTPLANE_STEP"), Name: os.Getenv("AGENTPLANE_STEP_NAME"), Cause: os.Getenv("AGENTPLANE_UNDO")}
}

// first says that it is the start of the attempt's first program.
func (d *deed) first() bool { return d.Part == "1" && !d.Ends }

// find looks at what the command has brought along.
func (d *deed) find(files []string, input bool) {
	d.Found = make(map[string]string)
	for _, path := range files {
		f, err := os.Open(path)
		d.Found[path] = sumOfReader(f, err)
		if err == nil {
			f.Close()
		}
	}
	if input {
		d.Found[foundInput] = sumOfReader(os.Stdin, nil)
	}
}

func sumOfReader(r io.Reader, err error) string {
	sum := sha256.New()
	if err == nil {
		_, err = io.Copy(sum, r)
	}
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// line is the deed as a witness writes it.
func (d *deed) line() (string, error) {
	var err error
	if d.Uptime, err = uptime(); err != nil {
		return "", err
	}
	text, err := json.Marshal(d)
	return string(text), err
}

func parseDeed(text string) (*deed, error) {
	var d deed
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		return nil, err
	}
	if d.Part == "" {
		return nil, errors.New("that names no part of an attempt")
	}
	return &d, nil
}

// uptime is how long the host has been up, to the hundredth of a second.
func uptime() (time.Duration, error) {
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0, err
	}
	text, _, _ := strings.Cut(string(b), " ")
	seconds, err := strconv.ParseFloat(text, 64)
	return time.Duration(seconds * float64(time.Second)), err
}

// readDeeds reads what the parts of each attempt did, in their order.
func readDeeds(dir string) (map[start][]deed, error) {
	deeds := make(map[start][]deed)
	err := eachWitnessed(dir, func(at start, d *deed) {
		if d != nil {
			deeds[at] = append(deeds[at], *d)
		}
	})
	return deeds, err
}
