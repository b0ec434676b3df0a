//go:build agentplane_mutant_preface

package peer

// The mutant: whoever has a node's key may speak raft.
const judgesPrefaces = false
