package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// fuseArg makes this binary serve a file system whose faults can be switched.
const fuseArg = "serve-faults"

// Kinds of faults of the file system.
const (
	faultRead  = "reads fail"
	faultWrite = "writes fail"
	faultTorn  = "writes are torn" // a part of what is written gets to the file, then the write fails
	faultSync  = "fsyncs fail"
	faultFull  = "no space is left"
	faultHeld  = "requests are held"
)

// op is what a request wants.
type op int

const (
	opLook  op = iota // at a name, a directory or attributes
	opMake            // something that needs a block
	opRead            // the content of a file
	opWrite           // within what the file has
	opGrow            // a write past the end of the file
	opSync
)

// faultKinds says of each kind which requests it meets, and what those are answered.
var faultKinds = map[string]struct {
	ops   []op
	errno syscall.Errno
}{
	faultRead:  {[]op{opRead}, syscall.EIO},
	faultWrite: {[]op{opWrite, opGrow}, syscall.EIO},
	faultTorn:  {[]op{opWrite, opGrow}, syscall.EIO},
	faultSync:  {[]op{opSync}, syscall.EIO},
	faultFull:  {[]op{opMake, opGrow}, syscall.ENOSPC},
	faultHeld:  {[]op{opLook, opMake, opRead, opWrite, opGrow, opSync}, 0},
}

// diskFault is a fault of what lies below one directory of the file system.
type diskFault struct {
	// Kind is what the fault does, Share that it meets one of so many requests, Times after how
	// many of those it is over (0: never by itself).
	Kind  string
	Share int
	Times int64

	met  atomic.Int64
	over chan struct{} // closed by who takes it from its disk
}

// meets says whether a request meets the fault.
func (f *diskFault) meets(o op) bool {
	if f == nil || !slices.Contains(faultKinds[f.Kind].ops, o) || f.Share > 1 && rand.IntN(f.Share) > 0 {
		return false
	}
	n := f.met.Add(1)
	return f.Times == 0 || n <= f.Times
}

// faultyDisk is what lies below one directory of the file system's root.
type faultyDisk struct{ fault atomic.Pointer[diskFault] }

// meet answers what a request comes to, after it was held as long as it is.
func (d *faultyDisk) meet(o op) (syscall.Errno, *diskFault) {
	f := d.fault.Load()
	if !f.meets(o) {
		return 0, nil
	}
	if f.Kind == faultHeld {
		// That the caller was sent a signal changes nothing, as with a disk: Go's runtime sends
		// them all the time, and a file of a disk never answers EINTR.
		<-f.over
	}
	return faultKinds[f.Kind].errno, f
}

func (d *faultyDisk) errno(o op) syscall.Errno {
	errno, _ := d.meet(o)
	return errno
}

// faultServer serves a directory at another place.
type faultServer struct {
	mu    sync.Mutex // guards disks
	disks map[string]*faultyDisk
	root  *fs.Inode
}

func (s *faultServer) disk(name string) *faultyDisk {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.disks[name]
	if d == nil {
		d = &faultyDisk{}
		s.disks[name] = d
	}
	return d
}

// faultOrder is a line that the server reads: a new fault of a disk, none for an end of it, or a
// question how many requests met the one that there is.
type faultOrder struct {
	Disk  string
	Ask   bool
	Fault *diskFault
}

// faultAnswer is what the server prints for each of them, and once when all is mounted.
type faultAnswer struct {
	Met   int64
	Error string
}

// serveFaults serves a directory at a mount point until that is unmounted, or nobody can give
// orders any more.
func serveFaults(args []string) int {
	behind, at := args[0], args[1]
	s := &faultServer{disks: make(map[string]*faultyDisk)}
	var st syscall.Stat_t
	if err := syscall.Stat(behind, &st); err != nil {
		fmt.Fprintln(os.Stderr, "serve faults:", err)
		return 1
	}
	data := &fs.LoopbackRoot{Path: behind, Dev: st.Dev}
	data.RootNode = &faultNode{LoopbackNode: &fs.LoopbackNode{RootData: data}, server: s}
	keep := time.Second // nobody else changes what lies behind
	server, err := fs.Mount(at, data.RootNode, &fs.Options{
		EntryTimeout: &keep, AttrTimeout: &keep, NullPermissions: true,
		// What is held of one disk must not fill the queue that all of them share.
		MountOptions: fuse.MountOptions{DirectMount: true, MaxBackground: 1 << 12, FsName: "faults", DisableXAttrs: true},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "serve faults:", err)
		return 1
	}
	s.root = data.RootNode.EmbeddedInode()
	go func() {
		s.obey(os.Stdin, os.Stdout)
		_ = syscall.Unmount(at, syscall.MNT_DETACH) // it may be unmounted already
		os.Exit(0)
	}()
	server.Wait()
	return 0
}

// obey does what it is told until there is nobody to tell it.
func (s *faultServer) obey(in io.Reader, out io.Writer) {
	orders, answers := json.NewDecoder(in), json.NewEncoder(out)
	for err := answers.Encode(faultAnswer{}); err == nil; {
		var o faultOrder
		if orders.Decode(&o) != nil {
			return
		}
		err = answers.Encode(s.do(o))
	}
}

func (s *faultServer) do(o faultOrder) (a faultAnswer) {
	d := s.disk(o.Disk)
	if o.Ask {
		if f := d.fault.Load(); f != nil {
			a.Met = f.met.Load()
		}
		return a
	}
	if o.Fault != nil {
		if _, known := faultKinds[o.Fault.Kind]; !known {
			return faultAnswer{Error: fmt.Sprintf("no fault is called %q", o.Fault.Kind)}
		}
		o.Fault.over = make(chan struct{})
	}
	if was := d.fault.Swap(o.Fault); was != nil {
		a.Met = was.met.Load()
		close(was.over)
	}
	if f := o.Fault; f != nil && f.Kind == faultHeld {
		time.AfterFunc(freezeFor, func() {
			if d.fault.CompareAndSwap(f, nil) { // it is not mended yet
				close(f.over)
			}
		})
	}
	if o.Fault != nil && o.Fault.Kind == faultRead {
		if child := s.root.GetChild(o.Disk); child != nil {
			forget(child)
		}
	}
	return a
}

// forget has the kernel forget what files hold, so that reads come here.
func forget(n *fs.Inode) {
	for _, child := range n.Children() {
		forget(child)
	}
	if !n.IsDir() {
		_ = n.NotifyContent(0, 0) // the kernel may have forgotten the file itself
	}
}

// faultNode is a file or directory of the file system.
type faultNode struct {
	*fs.LoopbackNode
	server *faultServer
	disk   *faultyDisk // nil of the root, and of the directories in it
}

// WrapChild makes what stands for a file or directory in this one.
func (n *faultNode) WrapChild(_ context.Context, ops fs.InodeEmbedder) fs.InodeEmbedder {
	child := &faultNode{LoopbackNode: ops.(*fs.LoopbackNode), server: n.server}
	if !n.IsRoot() {
		child.disk = n.below()
	}
	return child
}

// below is the disk of all below one directory of the root; the root itself has none that fails.
func (n *faultNode) below() *faultyDisk {
	switch {
	case n.disk != nil:
		return n.disk
	case n.IsRoot():
		return &faultyDisk{}
	}
	name, _ := n.Parent()
	return n.server.disk(name)
}

func (n *faultNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.below().errno(opLook); errno != 0 {
		return nil, errno
	}
	return n.LoopbackNode.Lookup(ctx, name, out)
}

func (n *faultNode) Getattr(ctx context.Context, f fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	if errno := n.below().errno(opLook); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Getattr(ctx, f, out)
}

func (n *faultNode) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if errno := n.below().errno(opLook); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Setattr(ctx, f, in, out)
}

func (n *faultNode) Readdir(ctx context.Context) (fs.DirStream, syscall.Errno) {
	if errno := n.below().errno(opLook); errno != 0 {
		return nil, errno
	}
	return n.LoopbackNode.Readdir(ctx)
}

func (n *faultNode) OpendirHandle(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.below().errno(opLook); errno != 0 {
		return nil, 0, errno
	}
	f, more, errno := n.LoopbackNode.OpendirHandle(ctx, flags)
	if errno != 0 {
		return nil, 0, errno
	}
	return &faultDir{dirHandle: f.(dirHandle), disk: n.below()}, more, 0
}

func (n *faultNode) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.below().errno(opMake); errno != 0 {
		return nil, errno
	}
	return n.LoopbackNode.Mkdir(ctx, name, mode, out)
}

func (n *faultNode) Mknod(ctx context.Context, name string, mode, dev uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.below().errno(opMake); errno != 0 {
		return nil, errno
	}
	return n.LoopbackNode.Mknod(ctx, name, mode, dev, out)
}

func (n *faultNode) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.below().errno(opMake); errno != 0 {
		return nil, errno
	}
	return n.LoopbackNode.Symlink(ctx, target, name, out)
}

func (n *faultNode) Rename(ctx context.Context, name string, parent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if errno := n.below().errno(opLook); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Rename(ctx, name, parent, newName, flags)
}

func (n *faultNode) Unlink(ctx context.Context, name string) syscall.Errno {
	if errno := n.below().errno(opLook); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Unlink(ctx, name)
}

func (n *faultNode) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.below().errno(opMake); errno != 0 {
		return nil, nil, 0, errno
	}
	child, f, more, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	return child, n.below().file(f), more, errno
}

func (n *faultNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.below().errno(opLook); errno != 0 {
		return nil, 0, errno
	}
	f, more, errno := n.LoopbackNode.Open(ctx, flags)
	if name, _ := n.Parent(); name == "script" && errno == 0 {
		return &faultFile{LoopbackFile: f.(*fs.LoopbackFile), disk: n.below(), spared: true}, more, 0
	}
	return n.below().file(f), more, errno
}

// Statfs says that nothing is free where nothing is.
func (n *faultNode) Statfs(ctx context.Context, out *fuse.StatfsOut) syscall.Errno {
	errno := n.below().errno(opLook)
	if errno == 0 {
		errno = n.LoopbackNode.Statfs(ctx, out)
	}
	if f := n.below().fault.Load(); f != nil && f.Kind == faultFull {
		out.Bfree, out.Bavail = 0, 0
	}
	return errno
}
