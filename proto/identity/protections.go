//go:build !agentplane_mutants

package identity

// comparesClusters says that a certificate of another cluster is refused (I12, I13).
const comparesClusters = true

// comparesNodeKeys says that a node's key must be the one that is registered (I12).
const comparesNodeKeys = true

// asksIssuers says that an authority of the bundle must have made a certificate (I12).
const asksIssuers = true
