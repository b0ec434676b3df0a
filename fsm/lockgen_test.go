package fsm

import (
	"fmt"
	"time"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// genLocks are the locks of the world: semaphores, two budgets, and one of which only
// leases know.
var genLocks = []*raftlogv1.CreateLock{
	{Name: "one", Limit: 1},
	{Name: "two", Limit: 2},
	{Name: "group", Limit: 1, PerLabel: "x"},
	{Name: "all", Limit: 2, Selector: "all"},
	{Name: "some", Limit: 1, Selector: `label.x == "1"`},
	{Name: "implicit", Limit: 1},
}

// genLease names the i-th lease of the world.
func genLease(i int) string {
	return commandID(storyBegin.Add(time.Duration(i)*time.Millisecond), fmt.Sprint("lease", i))
}

func (g *gen) lockMutation() *raftlogv1.Mutation {
	l := genLocks[g.random.IntN(len(genLocks))]
	lease, holder := genLease(g.random.IntN(12)), g.of(genOperators)
	if p, found := g.m.View().Lease(lease); found && !g.rarely(5) {
		holder = p.GetHolder()
		if name := p.GetLock(); !g.rarely(5) {
			for _, other := range genLocks {
				if other.GetName() == name {
					l = other
				}
			}
		}
	}
	switch g.random.IntN(12) {
	case 0, 1, 2:
		m := clone(l)
		m.CreatedBy = holder
		if g.rarely(6) {
			m.Limit = uint32(g.pick(0, 1, 2, MaxPlaces+1))
		}
		if g.rarely(10) {
			m.Selector = g.of([]string{"all", "", "label.", `health == "DOWN"`, `label.x=="1"`})
		}
		if m.GetName() == "implicit" && !g.rarely(6) {
			m.Name = "one"
		}
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CreateLock{CreateLock: m}}
	case 3:
		if !g.rarely(3) {
			return g.workMutation()
		}
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_DeleteLock{DeleteLock: &raftlogv1.DeleteLock{Name: l.GetName(), Force: g.rarely(2)}}}
	case 4, 5, 6, 7:
		m := &raftlogv1.AcquireLock{Lock: l.GetName(), LeaseId: lease, Holder: holder, Ttl: int64(g.pick(0, 1, 5, 5, 30, 30)) * int64(time.Second)}
		if l.GetPerLabel() != "" || g.rarely(3) {
			m.AgentId = g.of(append([]string{""}, genAgents...))
		}
		if l.GetName() == "implicit" || g.rarely(8) {
			m.Limit, m.PerLabel = l.GetLimit(), l.GetPerLabel()
		}
		if g.rarely(15) {
			m.LeaseId = g.of([]string{"", "x", g.command()})
		}
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_AcquireLock{AcquireLock: m}}
	case 8:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RenewLock{RenewLock: &raftlogv1.RenewLock{Lock: l.GetName(), LeaseId: lease, Holder: holder}}}
	case 9:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReleaseLock{ReleaseLock: &raftlogv1.ReleaseLock{Lock: l.GetName(), LeaseId: lease, Holder: holder, Force: g.rarely(4)}}}
	default:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ExpireLeases{ExpireLeases: &raftlogv1.ExpireLeases{Max: uint32(g.pick(0, 1, 1, 100))}}}
	}
}

// fleetLocks are names for a submission.
func (g *gen) fleetLocks() []string {
	return [][]string{nil, nil, nil, nil, {"one"}, {"two"}, {"group"}, {"all"}, {"one", "two"}, {"group", "one"}, {"two", "one"}, {"none"}}[g.random.IntN(12)]
}
