//go:build !race

package sim

const defaultLives = 200
