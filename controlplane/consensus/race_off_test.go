//go:build !race

package consensus_test

const defaultLives = 40

// tornRounds is how many appends are cut.
const tornRounds = 12
