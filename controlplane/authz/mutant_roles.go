//go:build agentplane_mutant_roles

package authz

// The mutant: an operator may do everything.
const comparesRoles = false
