package consensus

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime/debug"
	"syscall"

	"github.com/hashicorp/raft-wal/types"
)

// errPage says that the kernel could not read a page of a file that is mapped, which a read of it
// would be told by EIO.
var errPage = fmt.Errorf("a page of a mapped file cannot be read, or the file is damaged and points behind its end: %w", syscall.EIO)

// mapped runs f, which may read files through mappings, as bbolt does. Where the kernel cannot
// read a page of one it sends a signal, of which Go's runtime makes the end of the process, with
// the exit code of a wrong use; here it is an error. What f had locked may stay so: the store
// must not be used any more.
func mapped(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch fault := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }:
			err = fmt.Errorf("at address %#x %w", fault.Addr(), errPage)
		default:
			panic(fault)
		}
	}()
	return f()
}

// unread says that something could not be read, which tells nothing of what is there. What is
// missing can be told.
func unread(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && !errors.Is(err, fs.ErrNotExist)
}

// refusal is why a disk is refused at the start: it is damaged, or it cannot be read. Whoever
// took the second for the first would throw away a node whose disk has lost nothing.
func refusal(err error) error {
	if unread(err) {
		return err
	}
	return &damaged{err}
}

// mappedMeta is the bookkeeping of raft-wal, which a goroutine of its own writes, too.
type mappedMeta struct{ types.MetaStore }

func (m mappedMeta) Load(dir string) (s types.PersistentState, err error) {
	err = mapped(func() (err error) { s, err = m.MetaStore.Load(dir); return err })
	return s, err
}

func (m mappedMeta) CommitState(s types.PersistentState) error {
	return mapped(func() error { return m.MetaStore.CommitState(s) })
}
