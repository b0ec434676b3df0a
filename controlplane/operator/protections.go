//go:build !agentplane_mutants

package operator

// keepsLast says that of a row's changes that come together a watch shows the last one (I7).
const keepsLast = true
