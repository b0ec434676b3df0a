package fsm

import (
	"context"
	"testing"
	"testing/synctest"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func TestFollowSendsWhatIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Options{FeedChanges: 8})
		m.Apply(1, 1, &raftlogv1.Entry{Format: 1, Mutations: []*raftlogv1.Mutation{
			{Kind: &raftlogv1.Mutation_TakeOffice{TakeOffice: &raftlogv1.TakeOffice{NodeId: "a", Term: 1}}},
		}})
		_, office := m.Published()
		index := uint64(1)
		apply := func(k ...*raftlogv1.Mutation) {
			index++
			m.Apply(index, 1, &raftlogv1.Entry{Format: 1, LeaderEpoch: office.GetEpoch(), Mutations: k})
		}
		apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_InitCluster{InitCluster: &raftlogv1.InitCluster{
			ClusterId: "c", Incarnation: &raftlogv1.Incarnation{Number: 1, Id: make([]byte, 16)}, FeatureLevel: 1,
			Node: &raftlogv1.Node{Id: "a", Name: "a", PublicKey: []byte("a"), Address: "a:1"},
		}}})
		_, cursor := m.ViewAndWatch()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		feed := make(chan News)
		go m.Follow(ctx, cursor, feed, TableSettings)

		put := func(key, value string) *raftlogv1.Mutation {
			return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PutSetting{PutSetting: &raftlogv1.PutSetting{Key: key, Value: value}}}
		}
		apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollOperator{EnrollOperator: &raftlogv1.EnrollOperator{Name: "o", PublicKey: []byte("o"), Role: "admin"}}})
		apply(put("x", "1"))
		n := <-feed
		if n.List != nil || len(n.Changes) != 1 || n.Changes[0].Key != "x" {
			t.Fatalf("the news are %+v, want the one setting and not the operator", n)
		}
		synctest.Wait()

		// One change waits to be taken; behind it the feed forgets.
		apply(put("y", "1"))
		synctest.Wait()
		for i := range 20 {
			apply(put("z"+string(rune('a'+i)), "1"))
		}
		if n := <-feed; len(n.Changes) != 1 || n.Changes[0].Key != "y" {
			t.Fatalf("the news are %+v, want the one that waited", n)
		}
		if n := <-feed; n.List == nil || n.List.Index() != index {
			t.Fatalf("the news are %+v, want a view at %d", n, index)
		}
		cancel()
		synctest.Wait() // Follow has returned, or the bubble would not end
	})
}
