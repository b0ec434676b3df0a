//go:build race

package consensus_test

// defaultLives is small where each life costs eight times as much.
const defaultLives = 8

// tornRounds is how many appends are cut, likewise.
const tornRounds = 3
