// Package linear judges what clients of a cluster were told: whether one correct thing,
// asked by one client after the other, could have told them the same (linearizability, I7).
// The judge is porcupine (github.com/anishathalye/porcupine); here are the specifications.
//
// What is known to have done nothing is no operation. What is unknown may have taken effect
// at any later time, or never: it ends with the history, where taking effect shows to nobody.
package linear
