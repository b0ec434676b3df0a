//go:build agentplane_mutant_registration

package identity

// The mutant: a certificate is enough to be a node.
const comparesNodeKeys = false
