//go:build agentplane_mutant_othercluster

package identity

// The mutant: the cluster that a certificate names is not looked at.
const comparesClusters = false
