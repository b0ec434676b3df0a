package fsm

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"slices"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// MaxOutputNodes bounds the nodes that a record of output names.
const MaxOutputNodes = 16

// recordOutput notes which nodes keep the output of an attempt. The first record says
// what the output is: a later one of the same content adds its nodes, one of other
// content is refused. The attempt need not have ended for the cluster: its output and its
// result come by different ways.
func (tx *tx) recordOutput(m *raftlogv1.RecordOutput) *raftlogv1.Outcome {
	key, _ := invocationKey(m.GetInvocationId())
	i, found := tx.invocations.get(key)
	if !found {
		return refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_invocation", "there is no invocation %q", m.GetInvocationId())
	}
	if _, refusal := tx.registered(m.GetNodeId()); refusal != nil {
		return refusal
	}
	r := m.GetRecord()
	if refusal := tx.checkRecord(m.GetNodeId(), r); refusal != nil {
		return refusal
	}
	if r.GetAttempt() > i.GetAttempt() || r.GetAttempt() == i.GetAttempt() && i.GetFence() == 0 {
		return refuse(raftlogv1.Code_CODE_STALE, "not_claimed", "invocation %q is %s at attempt %d: nobody may have started attempt %d",
			i.GetId(), word(i.GetState()), i.GetAttempt(), r.GetAttempt())
	}
	at, recorded := slices.BinarySearchFunc(i.GetOutputs(), r.GetAttempt(), func(o *raftlogv1.OutputRecord, n uint32) int {
		return cmp.Compare(o.GetAttempt(), n)
	})
	row := clone(i)
	if !recorded {
		row.Outputs = slices.Insert(row.Outputs, at, r)
		put(tx, TableInvocations, tx.invocations, row)
		return ok()
	}
	have := row.Outputs[at]
	if !sameStream(have.GetStdout(), r.GetStdout()) || !sameStream(have.GetStderr(), r.GetStderr()) {
		return refuse(raftlogv1.Code_CODE_CONFLICT, "output_recorded", "the output of invocation %q attempt %d is recorded with other content", i.GetId(), r.GetAttempt())
	}
	nodes := slices.Concat(have.GetNodeIds(), r.GetNodeIds())
	slices.Sort(nodes)
	nodes = slices.Compact(nodes)
	switch {
	case len(nodes) == len(have.GetNodeIds()):
		return stands(0)
	case len(nodes) > MaxOutputNodes:
		return refuse(raftlogv1.Code_CODE_EXHAUSTED, "nodes", "%d nodes would keep the output of invocation %q, at most %d are noted", len(nodes), i.GetId(), MaxOutputNodes)
	}
	have.NodeIds = nodes
	put(tx, TableInvocations, tx.invocations, row)
	return ok()
}

func (tx *tx) checkRecord(nodeID string, r *raftlogv1.OutputRecord) *raftlogv1.Outcome {
	nodes := r.GetNodeIds()
	switch {
	case r.GetAttempt() == 0:
		return refuse(raftlogv1.Code_CODE_INVALID, "attempt", "a record of output names no attempt")
	case len(nodes) > MaxOutputNodes || !slices.Contains(nodes, nodeID):
		return refuse(raftlogv1.Code_CODE_INVALID, "nodes", "a record of output names %d nodes; at most %d are allowed, of which node %q is one", len(nodes), MaxOutputNodes, nodeID)
	case !goodStream(r.GetStdout()) || !goodStream(r.GetStderr()):
		return refuse(raftlogv1.Code_CODE_INVALID, "stream", "a record of output has a stream without a SHA-256, or with more missing than there is")
	}
	for n, id := range nodes {
		if _, known := tx.nodes.get(id); !known {
			return refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_node", "there is no node %q", id)
		}
		if n > 0 && id <= nodes[n-1] {
			return refuse(raftlogv1.Code_CODE_INVALID, "order", "the nodes of a record of output do not ascend")
		}
	}
	return nil
}

func goodStream(s *raftlogv1.StreamRecord) bool {
	return len(s.GetSha256()) == sha256.Size && s.GetMissing() <= s.GetBytes()
}

func sameStream(a, b *raftlogv1.StreamRecord) bool {
	return a.GetBytes() == b.GetBytes() && a.GetMissing() == b.GetMissing() && bytes.Equal(a.GetSha256(), b.GetSha256())
}
