package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// The layout of bbolt's meta page: a header of the page, then the fields, of which
// the last is the FNV-1a sum of those before it.
const (
	boltMagic      = 0xED0CDAED
	boltPageHeader = 16
	boltMetaBytes  = 56
)

// verifyBolt refuses a bbolt file of which one of the two meta pages is damaged.
// bbolt itself goes on with the other one, and that is the state before the last
// commit: a vote that was fsynced and promised is gone, and nobody notices. A crash
// does not damage one, since the 72 bytes lie in one sector.
func verifyBolt(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("verify %q: %w", path, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("verify %q: %w", path, err)
	}
	if st.Size() == 0 {
		return nil // made, and the process died before it wrote
	}
	page := int64(os.Getpagesize())
	head := make([]byte, boltPageHeader+boltMetaBytes+8)
	for n := range int64(2) {
		if _, err := f.ReadAt(head, n*page); err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("it ends inside meta page %d: the file is damaged, the node must rejoin empty", n)
			}
			return fmt.Errorf("verify %q: %w", path, err)
		}
		meta := head[boltPageHeader:]
		if size := int64(binary.NativeEndian.Uint32(meta[8:])); n == 0 && size > page && size <= 1<<16 {
			page = size // made on a machine with larger pages
		}
		sum := fnv.New64a()
		_, _ = sum.Write(meta[:boltMetaBytes])
		if binary.NativeEndian.Uint32(meta) != boltMagic || sum.Sum64() != binary.NativeEndian.Uint64(meta[boltMetaBytes:]) {
			return fmt.Errorf("verify %q: meta page %d has a wrong checksum: the last commit may be lost, the node must rejoin empty", path, n)
		}
	}
	return nil
}

// verifyWAL looks at the WAL's own bookkeeping before raft-wal does, which panics on
// an empty one and names no remedy when it is gone.
func verifyWAL(dir string) error {
	meta := filepath.Join(dir, "wal-meta.db")
	segments, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil {
		return fmt.Errorf("verify raft log: %w", err)
	}
	st, err := os.Stat(meta)
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(segments) > 0:
		return fmt.Errorf("verify raft log: %q is missing beside %d segments: the node must rejoin empty", meta, len(segments))
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("verify raft log: %w", err)
	case st.Size() == 0 && len(segments) > 0:
		return fmt.Errorf("verify raft log: %q is empty beside %d segments: the node must rejoin empty", meta, len(segments))
	case st.Size() == 0:
		// The process died when it had made the file, before anything was written.
		return os.Remove(meta)
	}
	return verifyBolt(meta)
}
