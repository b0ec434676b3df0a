// Package blob names contents by their SHA-256, and keeps them as files of a directory:
// what clients, nodes and agents must agree on about the files and the standard input that
// a command brings along.
//
// A name is a promise about the bytes, so whoever hands a blob on need not be trusted:
// everybody counts and hashes what comes ([Check], [Dir.Put]), and what is another content
// than its name says is thrown away.
//
// # The directory
//
// [Dir] holds one file for each blob, of mode 0600, under its hash. A blob is written to a
// file whose name begins with a dot, fsynced, renamed, and its directory fsynced: so what
// stands under a hash was whole and durable. A crash leaves at most files with a dot, which
// [OpenDir] removes.
//
//	crash before the rename    the blob was never there; whoever brings it brings it again
//	crash after it             the blob is there, or after a power cut perhaps not
//	Put has returned           the blob outlives a power cut
//
// What a disk has spoilt since is found when it is read ([Dir.Send]).
package blob
