package e2e

import (
	"context"
	"math/rand/v2"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// faultFile is an open file of the file system.
type faultFile struct {
	*fs.LoopbackFile
	disk *faultyDisk
	// spared is what an interpreter reads: a shell that cannot read on takes that for the end of its
	// script, and ends well, of which nobody can know.
	spared bool
}

// file is an open file with the faults of the disk; nil is none.
func (d *faultyDisk) file(f fs.FileHandle) fs.FileHandle {
	if f == nil {
		return nil
	}
	return &faultFile{LoopbackFile: f.(*fs.LoopbackFile), disk: d}
}

// PassthroughFd keeps the kernel from reading and writing past the faults.
func (f *faultFile) PassthroughFd() (int, bool) { return 0, false }

func (f *faultFile) Read(ctx context.Context, into []byte, at int64) (fuse.ReadResult, syscall.Errno) {
	if f.spared {
		return f.LoopbackFile.Read(ctx, into, at)
	}
	if errno := f.disk.errno(opRead); errno != 0 {
		return nil, errno
	}
	return f.LoopbackFile.Read(ctx, into, at)
}

func (f *faultFile) Write(ctx context.Context, data []byte, at int64) (uint32, syscall.Errno) {
	wants := opWrite
	var now fuse.AttrOut
	if errno := f.LoopbackFile.Getattr(ctx, &now); errno != 0 {
		return 0, errno
	}
	if at+int64(len(data)) > int64(now.Size) {
		wants = opGrow
	}
	errno, met := f.disk.meet(wants)
	if errno == 0 {
		return f.LoopbackFile.Write(ctx, data, at)
	}
	if met.Kind == faultTorn && len(data) > 0 {
		// How much it is does not matter: the caller is told of an error alone.
		_, _ = f.LoopbackFile.Write(ctx, data[:rand.IntN(len(data))], at)
	}
	return 0, errno
}

// Writev is Write of what lies in several pieces.
func (f *faultFile) Writev(ctx context.Context, pieces [][]byte, at int64) (uint32, syscall.Errno) {
	var data []byte
	for _, p := range pieces {
		data = append(data, p...)
	}
	return f.Write(ctx, data, at)
}

func (f *faultFile) Allocate(ctx context.Context, at, size uint64, mode uint32) syscall.Errno {
	if errno := f.disk.errno(opMake); errno != 0 {
		return errno
	}
	return f.LoopbackFile.Allocate(ctx, at, size, mode)
}

func (f *faultFile) Fsync(ctx context.Context, flags uint32) syscall.Errno {
	if errno := f.disk.errno(opSync); errno != 0 {
		return errno
	}
	return f.LoopbackFile.Fsync(ctx, flags)
}

// dirHandle is what an open directory of the file system can do.
type dirHandle interface {
	fs.FileReaddirenter
	fs.FileSeekdirer
	fs.FileReleasedirer
	fs.FileFsyncdirer
}

type faultDir struct {
	dirHandle
	disk *faultyDisk
}

func (d *faultDir) Fsyncdir(ctx context.Context, flags uint32) syscall.Errno {
	if errno := d.disk.errno(opSync); errno != 0 {
		return errno
	}
	return d.dirHandle.Fsyncdir(ctx, flags)
}
