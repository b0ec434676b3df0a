//go:build !agentplane_mutant_roles

package authz

// comparesRoles says that an operator may do what the role allows (I12).
const comparesRoles = true
