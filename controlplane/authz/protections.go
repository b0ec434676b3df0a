//go:build !agentplane_mutants

package authz

// comparesRoles says that an operator may do what the role allows (I12).
const comparesRoles = true
