package execute

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Files that the gate is born with, besides the program's three.
const (
	gateFD   = 3 // one byte lets the program go; end of file means that the supervisor died
	statusFD = 4 // what became of the exec
)

// statusExec is written before exec; when nothing follows, the program runs.
const statusExec = "exec\n"

// gateFailure says why the program could not be started.
type gateFailure struct {
	Code   int
	Reason string
	Detail string
}

// gate waits to be let go and becomes the program. It returns only when it does not.
func gate(d directory) int {
	if err := closeOnExec(gateFD); err != nil {
		fmt.Fprintf(os.Stderr, "agentd: error: close files before exec: %v\n", err)
		return 1
	}
	var sf specFile
	readErr := d.read(fileSpec, typeSpec, &sf)
	var b [1]byte
	if _, err := os.NewFile(gateFD, "gate").Read(b[:]); err != nil {
		return 1
	}
	status := os.NewFile(statusFD, "status")
	var secrets [][]byte
	if readErr == nil && d.has(fileSecrets) {
		readErr = d.read(fileSecrets, typeSecrets, &secrets)
		d.forget()
	}
	sf.Env = append(sf.Env, secrets...)
	if readErr != nil {
		return fail(status, gateFailure{126, ReasonNotPrepared, readErr.Error()})
	}
	return fail(status, become(status, sf))
}

func fail(status io.Writer, f gateFailure) int {
	if err := json.NewEncoder(status).Encode(f); err != nil {
		return 1
	}
	return f.Code
}

func become(status io.Writer, sf specFile) gateFailure {
	argv, env := toStrings(sf.Argv), toStrings(sf.Env)
	if err := os.Chdir(string(sf.Dir)); err != nil {
		return gateFailure{126, ReasonBadDirectory, fmt.Sprintf("working directory cannot be entered: %v", err)}
	}
	path, failure := lookPath(argv[0], env)
	if failure != nil {
		return *failure
	}
	// These may have been ignored when agentd was started, which exec would pass on;
	// what is caught is reset.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGINT)
	if _, err := io.WriteString(status, statusExec); err != nil {
		return gateFailure{126, ReasonNotExecutable, err.Error()}
	}
	return execFailure(path, syscall.Exec(path, argv, env))
}

func execFailure(path string, err error) gateFailure {
	if errors.Is(err, syscall.ENOENT) {
		return gateFailure{127, ReasonNotFound, fmt.Sprintf("program %q or its interpreter is not there", path)}
	}
	return gateFailure{126, ReasonNotExecutable, fmt.Sprintf("program %q cannot be executed: %v", path, err)}
}

// lookPath finds the program in the PATH that it will have itself. As a shell does, it
// says "not executable" of the last one found without permission.
func lookPath(name string, env []string) (string, *gateFailure) {
	if strings.Contains(name, "/") {
		return name, nil // exec says what is wrong with it
	}
	search := ""
	for _, v := range env {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			search = p
		}
	}
	missing := &gateFailure{127, ReasonNotFound, fmt.Sprintf("program %q is not in PATH %q", name, search)}
	for _, dir := range filepath.SplitList(search) {
		if dir == "" {
			dir = "."
		}
		path := dir + "/" + name
		st, err := os.Stat(path)
		switch {
		case err != nil || st.IsDir():
		case unix.Access(path, unix.X_OK) != nil:
			f := execFailure(path, syscall.EACCES)
			missing = &f
		default:
			return path, nil
		}
	}
	return "", missing
}

// closeOnExec marks every open file from first on, also those that agentd inherited from
// whoever started it, so that none reaches the program.
func closeOnExec(first int) error {
	err := unix.CloseRange(uint(first), 1<<32-1, unix.CLOSE_RANGE_CLOEXEC)
	if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	entries, err := os.ReadDir("/proc/self/fd") // kernels before 5.11
	if err != nil {
		return err
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= first {
			syscall.CloseOnExec(fd)
		}
	}
	return nil
}
