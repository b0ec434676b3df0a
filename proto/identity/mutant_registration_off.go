//go:build !agentplane_mutant_registration

package identity

// comparesNodeKeys says that a node's key must be the one that is registered (I12).
const comparesNodeKeys = true
