// Package gossiptest is a network in memory on which pools of package gossip run
// in virtual time, and whose links a test can cut, thin out and slow down.
//
// Everything in it works inside a testing/synctest bubble: it blocks on channels
// and timers only. Nothing blocks on a member that is gone: packets to it are
// lost and streams to it are refused, as by a host whose process has ended. Cut
// both ways to act a host that is gone without a word: streams to it then time
// out. (memberlist's own mock network hangs on both.)
//
// Simplified: a stream is set up without delay or loss, and a cut resets the
// streams that cross it rather than letting them hang.
package gossiptest
