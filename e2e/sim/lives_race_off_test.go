//go:build !race

package sim

// defaultLives are so many that 200 are not void.
const defaultLives = 210
