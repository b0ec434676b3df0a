package client_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client/clienttest"
)

func TestFollowGoesOnElsewhereWithoutLosingAByte(t *testing.T) {
	for name, hurt := range map[string]func(*clienttest.Node){
		"the node dies":    (*clienttest.Node).Kill,
		"the node freezes": (*clienttest.Node).Freeze,
	} {
		t.Run(name, func(t *testing.T) {
			const text = "one line\nanother line\nthe last line\n"
			cluster := clienttest.NewCluster(t, 2)
			cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{Stdout: text, TotalBytes: 100})
			c := newClient(t, quick(cluster.Options()))
			id, _, err := submit(t, c, cluster)
			if err != nil {
				t.Fatal(err)
			}
			got, gap, ends, chunks := "", uint64(0), 0, 0
			err = c.Follow(t.Context(), &agentplanev1.FollowRequest{CommandId: id}, func(i *agentplanev1.FollowItem) error {
				for _, chunk := range i.Chunks {
					if chunks++; chunks == 3 {
						hurt(cluster.Nodes[0])
					}
					got += string(chunk.Data)
					gap += chunk.GapBytes
				}
				if i.End != nil {
					ends++
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if got != text || gap != uint64(100-len(text)) || ends != 1 {
				t.Errorf("got %q, a gap of %d, %d ends", got, gap, ends)
			}
		})
	}
}

func TestFollowBeginsWhereItIsTold(t *testing.T) {
	cluster := clienttest.NewCluster(t, 1)
	cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{Stdout: "0123456789"})
	c := newClient(t, quick(cluster.Options()))
	id, _, err := submit(t, c, cluster)
	if err != nil {
		t.Fatal(err)
	}
	var first string
	req := &agentplanev1.FollowRequest{CommandId: id}
	read := func() (got string) {
		if err := c.Follow(t.Context(), req, func(i *agentplanev1.FollowItem) error {
			first = i.InvocationId
			for _, chunk := range i.Chunks {
				got += string(chunk.Data)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := read(); got != "0123456789" {
		t.Fatalf("got %q", got)
	}
	req.Cursors = []*agentplanev1.FollowCursor{{InvocationId: first, Attempt: 1, Have: &agentplanev1.OutputEnds{Stdout: 8}}}
	if got := read(); got != "89" {
		t.Errorf("from 8 on it got %q", got)
	}
	req.CommandId = "none"
	if err := c.Follow(t.Context(), req, func(*agentplanev1.FollowItem) error { return nil }); status.Code(err) != codes.NotFound {
		t.Errorf("error = %v, want NotFound", err)
	}
}
