package controlplane

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/agentplane/agentplane/controlplane/pki"
	"github.com/agentplane/agentplane/fsm"
	"github.com/agentplane/agentplane/proto/identity"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Whatever the state accepts, every node must be able to believe: an entry that all
// apply and none can write to its boot.state would stop the cluster for good.
func TestWhatTheStateAcceptsTheBundleAccepts(t *testing.T) {
	ca, err := pki.OpenCA(t.TempDir(), identity.ID{Cluster: "c", Kind: identity.KindNode, Name: "n1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := pki.OpenLeaf(pki.LeafOptions{CA: ca, KeyPath: t.TempDir() + "/key"})
	if err != nil {
		t.Fatal(err)
	}
	found := func() (*fsm.Machine, func(*raftlogv1.Mutation) *raftlogv1.Outcome) {
		m, index := fsm.New(fsm.Options{}), uint64(0)
		apply := func(k *raftlogv1.Mutation) *raftlogv1.Outcome {
			index++
			_, office := m.Published()
			return m.Apply(index, 1, &raftlogv1.Entry{Format: 1, LeaderEpoch: office.GetEpoch(), Now: 1, Mutations: []*raftlogv1.Mutation{k}})[0]
		}
		apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_TakeOffice{TakeOffice: &raftlogv1.TakeOffice{NodeId: "n1", Term: 1}}})
		o := apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_InitCluster{InitCluster: &raftlogv1.InitCluster{
			ClusterId: "c", Incarnation: &raftlogv1.Incarnation{Number: 1, Id: make([]byte, 16)}, FeatureLevel: 1,
			Keyring: []*raftlogv1.GossipKey{{Key: make([]byte, 32)}},
			Node: &raftlogv1.Node{
				Id: "n1", Name: "n1", Address: "127.0.0.1:7460", PublicKey: leaf.Key(), CaCertificate: ca.Entry().CertDER, FeatureLevel: 1,
			},
		}}})
		if o.GetCode() != raftlogv1.Code_CODE_OK {
			t.Fatal(o)
		}
		return m, apply
	}
	m, _ := found()
	if err := bootStateOf(m.View()).Validate(); err != nil {
		t.Fatalf("a sound cluster: %v", err)
	}
	rapid.Check(t, func(t *rapid.T) {
		m, apply := found()
		for i := range 3 {
			address := rapid.OneOf(
				rapid.StringMatching(`[\[\]a1:.,/@ +-]{0,12}`),
				rapid.StringMatching(`127\.0\.0\.1:\+?0?[0-9]{1,6}`),
				rapid.String(),
			).Draw(t, "address")
			o := apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_NodeStarted{NodeStarted: &raftlogv1.NodeStarted{
				NodeId: "n1", StartCounter: uint64(i + 1), FeatureLevel: 1, Address: address,
			}}})
			if err := bootStateOf(m.View()).Validate(); err != nil {
				t.Fatalf("address %q was answered %v, and then: %v", address, o, err)
			}
		}
	})
}
