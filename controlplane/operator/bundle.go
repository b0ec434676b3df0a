package operator

import (
	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// BundleOf is whom to trust as the state has it. Its index is that of the last
// change to it, so that equal bundles of any two nodes are equal bytes.
func BundleOf(v *fsm.View) *agentplanev1.Bundle {
	c := v.Cluster()
	b := &agentplanev1.Bundle{ClusterId: c.GetClusterId(), Incarnation: incarnation(c), Index: c.GetTrustIndex()}
	for n := range v.RegisteredNodes() {
		b.Nodes = append(b.Nodes, bundleNode(n))
	}
	return b
}

func bundleNode(n *raftlogv1.Node) *agentplanev1.BundleNode {
	return &agentplanev1.BundleNode{
		Id: n.GetId(), Name: n.GetName(), Address: n.GetAddress(), PublicKey: n.GetPublicKey(), CaCertificate: n.GetCaCertificate(),
	}
}

func incarnation(c *raftlogv1.Cluster) *agentplanev1.Incarnation {
	return &agentplanev1.Incarnation{Number: c.GetIncarnation().GetNumber(), Id: c.GetIncarnation().GetId()}
}
