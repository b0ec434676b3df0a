package fsm

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/go-memdb"
	"google.golang.org/protobuf/proto"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// benchAgents is the fleet of the benchmarks: large enough for deep trees.
const benchAgents = 1000

// fleet is a cluster with so many agents, each with a session.
func fleet(t testing.TB, agents int) *Machine {
	t.Helper()
	m := founded(t, Options{})
	for i := range agents {
		if i%MaxTokenUses == 0 {
			apply(t, m, token(fmt.Sprint("tok", i), raftlogv1.TokenKind_TOKEN_KIND_AGENT, MaxTokenUses))
		}
		id := fmt.Sprintf("agent-%05d", i)
		apply(t, m, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: &raftlogv1.EnrollAgent{AgentId: id, Name: id, PublicKey: keyOf(id), TokenId: tokenID(fmt.Sprint("tok", i/MaxTokenUses*MaxTokenUses))}}})
		apply(t, m, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_OpenSession{OpenSession: &raftlogv1.OpenSession{
			AgentId: id, NodeId: "a", StreamId: []byte("s"), StartId: []byte("p"), Journal: &raftlogv1.Journal{Id: journalOf(id)}, Slots: 1 << 30,
		}}})
		s, _ := m.View().Session(id)
		apply(t, m, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReadySession{ReadySession: &raftlogv1.ReadySession{AgentId: id, SessionEpoch: s.GetEpoch(), NodeId: s.GetNodeId()}}})
	}
	return m
}

func benchID(n int) string { return commandID(storyBegin, fmt.Sprint(n)) }

// applied gives the machine one entry of mutations, all of which must be granted.
func applied(b *testing.B, m *Machine, muts ...*raftlogv1.Mutation) {
	appliedAt(b, m, time.Unix(0, m.Now()), muts...)
}

func appliedAt(b *testing.B, m *Machine, now time.Time, muts ...*raftlogv1.Mutation) {
	index, office := m.Published()
	for _, o := range m.Apply(index+1, 1, &raftlogv1.Entry{Format: 1, LeaderEpoch: office.GetEpoch(), Now: now.UnixNano(), Mutations: muts}) {
		if o.GetCode() != raftlogv1.Code_CODE_OK {
			b.Fatal(o)
		}
	}
}

// BenchmarkApply is the life of a command on one target, an entry for each step;
// commands are purged as they end, so that the state does not grow.
func BenchmarkApply(b *testing.B) {
	b.Run("life", func(b *testing.B) {
		m := fleet(b, benchAgents)
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			id, ordinal := benchID(n), uint32(n%benchAgents)+1
			applied(b, m, submitTo(id, ordinal))
			applied(b, m, releaseAll(id))
			applied(b, m, claimOf(m, id, ordinal))
			applied(b, m, reportOf(m, id, ordinal, raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED))
			applied(b, m, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PurgeCommands{PurgeCommands: &raftlogv1.PurgeCommands{CommandIds: []string{id}}}})
		}
	})
	b.Run("submit", func(b *testing.B) {
		m := fleet(b, benchAgents)
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			applied(b, m, submitTo(benchID(n), uint32(n%benchAgents)+1))
		}
	})
	b.Run("batch=256", func(b *testing.B) {
		m := fleet(b, benchAgents)
		muts := make([]*raftlogv1.Mutation, raftlogv1.MaxMutations)
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			for i := range muts {
				muts[i] = submitTo(benchID(n*len(muts)+i), uint32(i%benchAgents)+1)
			}
			applied(b, m, muts...)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(muts)), "ns/mutation")
	})
	// As raft hands them over: sealed entries of submissions to offline agents.
	for _, batch := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("sealed/batch=%d", batch), func(b *testing.B) {
			m := fleet(b, benchAgents)
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				b.StopTimer()
				e := &raftlogv1.Entry{Format: 1, LeaderEpoch: m.View().Cluster().GetOffice().GetEpoch()}
				for i := range batch {
					at := storyBegin.Add(time.Duration(n*batch+i) * 100 * time.Microsecond) // 10 000 a second
					e.Now = at.UnixNano()
					e.Mutations = append(e.Mutations, submitTo(commandID(at, fmt.Sprint(n*batch+i)), uint32((n*batch+i)*7919%benchAgents)+1))
				}
				sealed, err := raftlogv1.Seal(e)
				if err != nil {
					b.Fatal(err)
				}
				index, _ := m.Published()
				b.StartTimer()
				opened, err := raftlogv1.Unseal(sealed)
				if err != nil {
					b.Fatal(err)
				}
				m.applySized(index+1, 1, opened, len(sealed))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batch), "ns/mutation")
		})
	}
	// As the leader ends what nobody claimed in time.
	b.Run("expire+purge/batch=1000", func(b *testing.B) {
		m := fleet(b, benchAgents)
		ids := make([]string, 1000)
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			b.StopTimer()
			at := storyBegin.Add(time.Duration(n) * time.Minute)
			muts := make([]*raftlogv1.Mutation, len(ids))
			for i := range ids {
				ids[i] = commandID(at, fmt.Sprint(n*len(ids)+i))
				muts[i] = submitTo(ids[i], uint32(i*7919%benchAgents)+1)
				muts[i].GetSubmitCommand().Ttl = int64(time.Minute)
			}
			for some := range slices.Chunk(muts, raftlogv1.MaxMutations) {
				appliedAt(b, m, at, some...)
			}
			b.StartTimer()
			appliedAt(b, m, at.Add(time.Minute), &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ExpireCommands{ExpireCommands: &raftlogv1.ExpireCommands{CommandIds: ids, Max: 1000}}})
			appliedAt(b, m, at.Add(time.Minute), &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PurgeCommands{PurgeCommands: &raftlogv1.PurgeCommands{CommandIds: ids}}})
		}
		if n := m.View().CommandCount(); n > 0 {
			b.Fatalf("%d commands are left", n)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(ids)), "ns/command")
	})
	b.Run("claim+report/batch=128", func(b *testing.B) {
		m := fleet(b, benchAgents)
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			b.StopTimer()
			var claims, reports []*raftlogv1.Mutation
			for i := range 128 {
				id := benchID(n*128 + i)
				applied(b, m, submitTo(id, uint32(i+1)), releaseAll(id))
				claims = append(claims, claimOf(m, id, uint32(i+1)))
			}
			b.StartTimer()
			applied(b, m, claims...)
			b.StopTimer()
			for i := range 128 {
				reports = append(reports, reportOf(m, benchID(n*128+i), uint32(i+1), raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED))
			}
			b.StartTimer()
			applied(b, m, reports...)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*256), "ns/mutation")
	})
	b.Run("submit/targets=10000", func(b *testing.B) {
		m := founded(b, Options{})
		ordinals := make([]uint32, MaxTargets)
		for i := range ordinals {
			ordinals[i] = uint32(i) + 1
		}
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			applied(b, m, submitTo(benchID(n), ordinals...))
			applied(b, m, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PurgeCommands{PurgeCommands: &raftlogv1.PurgeCommands{CommandIds: []string{benchID(n)}}}})
		}
	})
}

// BenchmarkSnapshot writes and reads a state of 100 000 invocations.
func BenchmarkSnapshot(b *testing.B) {
	m := fleet(b, benchAgents)
	ordinals := make([]uint32, benchAgents)
	for i := range ordinals {
		ordinals[i] = uint32(i) + 1
	}
	for n := range 100 {
		applied(b, m, submitTo(benchID(n), ordinals...), releaseAll(benchID(n)))
	}
	snapshot := written(b, m.View())
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := m.View().WriteSnapshot(io.Discard); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(len(snapshot)), "bytes")
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ReadSnapshot(bytes.NewReader(snapshot)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkFeed is one entry with 1 000 watchers that are woken by it.
func BenchmarkFeed(b *testing.B) {
	m := founded(b, Options{})
	const watchers = 1000
	seen := make(chan struct{}, watchers)
	ctx := b.Context()
	done := make(chan struct{})
	for range watchers {
		_, after := m.ViewAndWatch()
		go func() {
			defer func() { done <- struct{}{} }()
			for {
				changes, err := m.Changes(ctx, after)
				if err != nil {
					return
				}
				for _, c := range changes {
					if c.Row == nil {
						return
					}
					seen <- struct{}{}
				}
				after = changes[len(changes)-1].Cursor
			}
		}()
	}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		applied(b, m, setting(m, fmt.Sprint(n)))
		for range watchers {
			<-seen
		}
	}
	// A change without a row ends the watchers.
	_, end := m.ViewAndWatch()
	m.feed.append([]retained{{Change{Cursor: Cursor{Incarnation: end.Incarnation, Index: end.Index + 1}, Table: TableSettings, Key: "k"}, 1}})
	for range watchers {
		<-done
	}
}

// BenchmarkTables is what a claim does to its tables, three reads and two writes,
// alone in its transaction and with others, with the tables of this package and
// with hashicorp/go-memdb.
func BenchmarkTables(b *testing.B) {
	for _, claims := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("claims=%d", claims), func(b *testing.B) { benchmarkTables(b, claims) })
	}
}

func benchmarkTables(b *testing.B, claims int) {
	const rows = 10_000
	agent := func(i int) string { return fmt.Sprintf("agent-%05d", i) }
	invocations, sessions, commands := make([]*raftlogv1.Invocation, rows), make([]*raftlogv1.Session, rows), make([]*raftlogv1.Command, rows)
	for i := range rows {
		id := benchID(i)
		invocations[i] = &raftlogv1.Invocation{
			Id: InvocationID(id, uint32(i)), CommandId: id, AgentId: agent(i), AgentOrdinal: uint32(i), Attempt: 1, State: raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED,
			Transitions: []*raftlogv1.Transition{{Index: uint64(i)}},
		}
		sessions[i] = &raftlogv1.Session{AgentId: agent(i), Epoch: 1, NodeId: "a", State: raftlogv1.SessionState_SESSION_STATE_READY}
		commands[i] = &raftlogv1.Command{Id: id, State: raftlogv1.CommandState_COMMAND_STATE_ACTIVE, SubmittedIndex: uint64(i)}
	}
	// The new rows are made before the clock runs: only tables are compared.
	claimedRows, touched := make([]*raftlogv1.Invocation, rows), make([]*raftlogv1.Command, rows)
	for i := range rows {
		claimedRows[i], touched[i] = clone(invocations[i]), clone(commands[i])
		claimedRows[i].State, claimedRows[i].Fence = raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED, 1
		touched[i].ChangedIndex = 1
	}
	// Each round through the rows takes them to the other state, so that their keys
	// in the indexes move as they do in life.
	place := func(n int) (int, []*raftlogv1.Invocation) {
		if n/rows%2 == 0 {
			return n * 7919 % rows, claimedRows
		}
		return n * 7919 % rows, invocations
	}
	b.Run("fsm", func(b *testing.B) {
		t := newTables()
		for i := range rows {
			t.invocations.put(invocations[i])
			t.sessions.put(sessions[i])
			t.commands.put(commands[i])
		}
		keys := make([]string, rows)
		for i := range rows {
			keys[i] = t.invocations.key(invocations[i])
		}
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			for c := range claims {
				i, claimed := place(n*claims + c)
				inv, _ := t.invocations.get(keys[i])
				if _, ok := t.sessions.get(inv.GetAgentId()); !ok {
					b.Fatal("no session")
				}
				if _, ok := t.commands.get(inv.GetCommandId()); !ok {
					b.Fatal("no command")
				}
				t.invocations.put(claimed[i])
				t.commands.put(touched[i])
			}
			_ = t.published()
		}
	})
	b.Run("go-memdb", func(b *testing.B) {
		db, err := memdb.NewMemDB(memdbSchema())
		if err != nil {
			b.Fatal(err)
		}
		tx := db.Txn(true)
		insert := func(table string, row any) {
			if err := tx.Insert(table, row); err != nil {
				b.Fatal(err)
			}
		}
		for i := range rows {
			insert("invocations", invocations[i])
			insert("sessions", sessions[i])
			insert("commands", commands[i])
		}
		tx.Commit()
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			tx = db.Txn(true)
			for c := range claims {
				i, claimed := place(n*claims + c)
				row, err := tx.First("invocations", "id", invocations[i].GetCommandId(), uint32(i))
				if err != nil || row == nil {
					b.Fatal("no invocation", err)
				}
				inv := row.(*raftlogv1.Invocation)
				if s, err := tx.First("sessions", "id", inv.GetAgentId()); err != nil || s == nil {
					b.Fatal("no session", err)
				}
				if c, err := tx.First("commands", "id", inv.GetCommandId()); err != nil || c == nil {
					b.Fatal("no command", err)
				}
				insert("invocations", claimed[i])
				insert("commands", touched[i])
			}
			tx.Commit()
		}
	})
}

// rowIndexer lets go-memdb use the very keys that our tables use, so that neither
// side pays for reflection.
type rowIndexer[R any] struct {
	key  func(R) (string, bool)
	args func(...any) string
}

func (x rowIndexer[R]) FromObject(row any) (bool, []byte, error) {
	k, ok := x.key(row.(R))
	return ok, []byte(k), nil
}

func (x rowIndexer[R]) FromArgs(args ...any) ([]byte, error) { return []byte(x.args(args...)), nil }

func memdbSchema() *memdb.DBSchema {
	t := newTables()
	return &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{
		"invocations": memdbTable("invocations", t.invocations, func(a ...any) string { return a[0].(string) + "." + be32(a[1].(uint32)) }),
		"sessions":    memdbTable("sessions", t.sessions, func(a ...any) string { return a[0].(string) }),
		"commands":    memdbTable("commands", t.commands, func(a ...any) string { return a[0].(string) }),
	}}
}

func memdbTable[R proto.Message](name string, t *table[R], args func(...any) string) *memdb.TableSchema {
	s := &memdb.TableSchema{Name: name, Indexes: map[string]*memdb.IndexSchema{
		"id": {Name: "id", Unique: true, Indexer: rowIndexer[R]{key: func(r R) (string, bool) { return t.key(r), true }, args: args}},
	}}
	for i, x := range t.indexes {
		s.Indexes[fmt.Sprint(i)] = &memdb.IndexSchema{Name: fmt.Sprint(i), Unique: true, AllowMissing: true, Indexer: rowIndexer[R]{key: x.key, args: args}}
	}
	return s
}
