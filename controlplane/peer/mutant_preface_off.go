//go:build !agentplane_mutant_preface

package peer

// judgesPrefaces says that who connects is judged by what it says first (I13).
const judgesPrefaces = true
