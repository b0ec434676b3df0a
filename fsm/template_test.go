package fsm

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func putTemplate(name, text string, expected uint32) *raftlogv1.Mutation {
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PutTemplate{PutTemplate: &raftlogv1.PutTemplate{
		Name: name, Spec: []byte(text), Digest: []byte(text), CreatedBy: "alice", ExpectedVersion: expected,
	}}}
}

func deleteTemplate(name string) *raftlogv1.Mutation {
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_DeleteTemplate{DeleteTemplate: &raftlogv1.DeleteTemplate{Name: name}}}
}

func (g *gen) templateMutation() *raftlogv1.Mutation {
	name := g.of([]string{"restart", "restart", "restart-all", "x", "", "a b"})
	newest, _ := g.m.tables.newestTemplate(name)
	if g.rarely(4) {
		m := deleteTemplate(name)
		if g.rarely(2) {
			m.GetDeleteTemplate().ExpectedVersion = uint32(g.near(uint64(newest.GetVersion())))
		}
		return m
	}
	return putTemplate(name, g.of([]string{"one", "two", "three", ""}), uint32(g.near(uint64(newest.GetVersion()))))
}

// checkTemplates says whether more is kept than may be, or versions of a deleted template.
func checkTemplates(t *tables) error {
	versions := map[string]int{}
	deleted := map[string]bool{}
	for r := range t.templates.all() {
		versions[r.GetName()]++
		deleted[r.GetName()] = deleted[r.GetName()] || r.GetDeletedAt() != 0
		if r.GetVersion() == 0 || (len(r.GetSpec()) == 0) != (r.GetDeletedAt() != 0) {
			return fmt.Errorf("template %v", r)
		}
	}
	for name, n := range versions {
		if n > MaxTemplateVersions+t.schedules.len() || deleted[name] && n > 1 {
			return fmt.Errorf("template %q has %d versions, deleted: %v", name, n, deleted[name])
		}
	}
	if len(versions) > MaxTemplates {
		return fmt.Errorf("there are %d templates", len(versions))
	}
	return nil
}

// templateTwin is a slow, obvious model of one template.
type templateTwin struct {
	texts   map[uint32]string
	last    uint32
	deleted bool
}

func TestTemplatesMatchTheirTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newGen(t)
		all := map[string]*templateTwin{}
		for range historyEntries {
			e := g.entry(1)
			if len(e.GetMutations()) == 1 && e.GetLeaderEpoch() != 0 {
				e.Mutations[0] = g.templateMutation()
			}
			for i, o := range g.apply(e) {
				if o.GetCode() != raftlogv1.Code_CODE_OK {
					continue
				}
				switch m := e.GetMutations()[i].GetKind().(type) {
				case *raftlogv1.Mutation_PutTemplate:
					w := all[m.PutTemplate.GetName()]
					if w == nil {
						w = &templateTwin{}
						all[m.PutTemplate.GetName()] = w
					}
					w.put(t, m.PutTemplate, o)
				case *raftlogv1.Mutation_DeleteTemplate:
					w := all[m.DeleteTemplate.GetName()]
					expected := m.DeleteTemplate.GetExpectedVersion()
					if w == nil || o.GetRepeated() != w.deleted || expected != 0 && expected != w.last {
						t.Fatalf("deleted %q: %v, the model has %+v", m.DeleteTemplate.GetName(), o, w)
					}
					w.deleted, w.texts = true, nil
				}
			}
			v := g.m.View()
			for name, w := range all {
				newest, found := v.Template(name, 0)
				if found == w.deleted || found && (newest.GetVersion() != w.last || string(newest.GetSpec()) != w.texts[w.last]) {
					t.Fatalf("template %q is %v, the model has %+v", name, newest, w)
				}
				for version, text := range w.texts {
					if r, found := v.Template(name, version); found != (w.last-version < MaxTemplateVersions) || found && string(r.GetSpec()) != text {
						t.Fatalf("version %d of %q is %v, the model has %q of %d", version, name, r, text, w.last)
					}
				}
			}
		}
	})
}

func (w *templateTwin) put(t *rapid.T, m *raftlogv1.PutTemplate, o *raftlogv1.Outcome) {
	version := uint32(o.GetNumber())
	if o.GetRepeated() {
		if w.deleted || version != w.last || w.texts[version] != string(m.GetSpec()) {
			t.Fatalf("%v stands as version %d, the model has %+v", m, version, w)
		}
		return
	}
	if version != w.last+1 || m.GetExpectedVersion() != w.last {
		t.Fatalf("%v became version %d, the model has %+v", m, version, w)
	}
	if w.texts == nil {
		w.texts = map[uint32]string{}
	}
	w.texts[version], w.last, w.deleted = string(m.GetSpec()), version, false
}

// The versions of which schedules are made stay, however many follow; those of a schedule
// that has ended, or was deleted, make room as others do.
func TestVersionsOfSchedulesStay(t *testing.T) {
	m := founded(t, Options{})
	put := func(version int) {
		t.Helper()
		apply(t, m, putTemplate("restart", fmt.Sprint("version ", version), uint32(version-1)))
	}
	schedule := func(name string, n int, version uint32) {
		t.Helper()
		apply(t, m, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PutSchedule{PutSchedule: &raftlogv1.PutSchedule{
			Name: name, Id: commandID(storyBegin.Add(time.Duration(n)*time.Millisecond), name), By: "ann", Spec: &raftlogv1.ScheduleSpec{
				Command: []byte("c"), Cron: "0 3 * * *", Ttl: 1, Overlap: raftlogv1.Overlap_OVERLAP_SKIP, Missed: raftlogv1.Missed_MISSED_SKIP,
				Template: "restart", TemplateVersion: version,
			},
		}}})
	}
	kept := func() (versions []int) {
		for r := range m.tables.templates.withPrefix("restart\x00") {
			versions = append(versions, int(r.GetVersion()))
		}
		return versions
	}
	put(1)
	put(2)
	put(3)
	schedule("nightly", 1, 1)
	schedule("weekly", 2, 3)
	for version := 4; version <= 3+MaxTemplateVersions; version++ {
		put(version)
	}
	if got := kept(); len(got) != MaxTemplateVersions+2 || got[0] != 1 || got[1] != 3 || got[2] != 4 {
		t.Fatalf("kept are %v, want 1 and 3 beside the newest %d", got, MaxTemplateVersions)
	}
	if r, found := m.View().Template("restart", 1); !found || string(r.GetSpec()) != "version 1" {
		t.Errorf("version 1 is %v", r)
	}
	s, _ := m.View().Schedule("nightly")
	apply(t, m, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_DeleteSchedule{DeleteSchedule: &raftlogv1.DeleteSchedule{Name: "nightly", Id: s.GetId()}}})
	put(4 + MaxTemplateVersions)
	if got := kept(); len(got) != MaxTemplateVersions+1 || got[0] != 3 || got[1] != 5 {
		t.Errorf("without that schedule kept are %v, want 3 beside the newest %d", got, MaxTemplateVersions)
	}
	if err := check(m); err != nil {
		t.Error(err)
	}
}

func TestTemplatesHaveRoomForANameThatWasDeletedLongest(t *testing.T) {
	m := full(t)
	code := func(mut *raftlogv1.Mutation) string {
		index, office := m.Published()
		o := m.Apply(index+1, 1, &raftlogv1.Entry{Format: 1, LeaderEpoch: office.GetEpoch(), Now: m.Now(), Mutations: []*raftlogv1.Mutation{mut}})[0]
		return fmt.Sprint(o.GetCode().String(), " ", o.GetReason(), " ", o.GetNumber())
	}
	for n := 2; n < MaxTemplates; n++ { // full has two
		if got := code(putTemplate(fmt.Sprint("t", n), "x", 0)); got != "CODE_OK  1" {
			t.Fatal(got)
		}
	}
	if got := code(putTemplate("more", "x", 0)); got != "CODE_OK  1" { // in the place of "gone"
		t.Errorf("with a deleted one: %s", got)
	}
	if got := code(putTemplate("evenmore", "x", 0)); got != "CODE_EXHAUSTED too_many 0" {
		t.Errorf("with none: %s", got)
	}
	if got := code(putTemplate("more", "y", 1)); got != "CODE_OK  2" {
		t.Errorf("a further version of what is there: %s", got)
	}
	if err := check(m); err != nil {
		t.Error(err)
	}
}
