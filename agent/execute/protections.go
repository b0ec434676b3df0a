//go:build !agentplane_mutants

package execute

const (
	// startsOnce says that nothing is started where an attempt has a directory already (I2).
	startsOnce = true
	// letGoOnce says that what was let go is never started again, whatever is known of its
	// end; undosAlone that of all steps an undo alone is started again when it was not (I2).
	letGoOnce, undosAlone = true, true
	// awaitsReboots says that no step begins before the reboot that the one before announced.
	awaitsReboots = true
	// looksWhetherKept says that an undo looks first whether the attempt was confirmed. The
	// journal does so, too.
	looksWhetherKept = true
	// comparesContents says that what a command brings along is compared with its hash before
	// a program has it.
	comparesContents = true
)
