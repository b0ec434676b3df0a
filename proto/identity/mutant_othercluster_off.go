//go:build !agentplane_mutant_othercluster

package identity

// comparesClusters says that a certificate of another cluster is refused (I12, I13).
const comparesClusters = true
