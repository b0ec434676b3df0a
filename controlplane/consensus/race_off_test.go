//go:build !race

package consensus_test

const defaultLives = 40
