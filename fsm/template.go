package fsm

import (
	"bytes"
	"cmp"
	"iter"
	"strings"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Bounds of what is kept of templates.
const (
	// MaxTemplates bounds the names, those of deleted templates included: the oldest of
	// these makes room.
	MaxTemplates = 1024
	// MaxTemplateVersions bounds the versions of one template beside those that schedules
	// are made of: the oldest makes room.
	MaxTemplateVersions = 16
	// MaxTemplateBytes bounds what one version says.
	MaxTemplateBytes = 64 << 10
)

// templateKey orders versions of a name as numbers. Names have no byte below a letter.
func templateKey(name string, version uint32) string { return name + "\x00" + be32(version) }

// newestTemplate returns the newest version of the template, also when it was deleted.
func (t *tables) newestTemplate(name string) (*raftlogv1.Template, bool) {
	return last(t.templates.withPrefix(name + "\x00"))
}

// newestTemplates yields the newest version of each, by name, also of deleted ones.
func (t *tables) newestTemplates() iter.Seq[*raftlogv1.Template] {
	return func(yield func(*raftlogv1.Template) bool) {
		var newest *raftlogv1.Template
		for r := range t.templates.all() {
			if newest != nil && newest.GetName() != r.GetName() && !yield(newest) {
				return
			}
			newest = r
		}
		if newest != nil {
			yield(newest)
		}
	}
}

// putTemplate makes the version that follows the expected one. A deleted template still has
// its last version: a first put that is sent twice does not make anew what somebody has
// deleted since.
func (tx *tx) putTemplate(m *raftlogv1.PutTemplate) *raftlogv1.Outcome {
	name := m.GetName()
	newest, found := tx.newestTemplate(name)
	switch {
	case name == "" || len(name) > MaxValueBytes || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' }):
		return refuse(raftlogv1.Code_CODE_INVALID, "name", "template name %.40q is empty, has blanks, or is above %d bytes", name, MaxValueBytes)
	case len(m.GetSpec()) == 0 || len(m.GetDigest()) == 0:
		return refuse(raftlogv1.Code_CODE_INVALID, "no_template", "template %q says nothing", name)
	case len(m.GetSpec()) > MaxTemplateBytes:
		return refuse(raftlogv1.Code_CODE_INVALID, "too_large", "template %q has %d bytes, at most %d are allowed", name, len(m.GetSpec()), MaxTemplateBytes)
	case (m.GetExpectedVersion()+1 == newest.GetVersion() || m.GetExpectedVersion() == newest.GetVersion()) &&
		newest.GetDeletedAt() == 0 && bytes.Equal(newest.GetDigest(), m.GetDigest()):
		return stands(uint64(newest.GetVersion())) // the answer was lost, or nothing is new
	case m.GetExpectedVersion() != newest.GetVersion() && newest.GetDeletedAt() != 0:
		return refuse(raftlogv1.Code_CODE_STALE, "version_moved", "template %q was deleted at version %d: made anew it follows that one, not %d", name, newest.GetVersion(), m.GetExpectedVersion())
	case m.GetExpectedVersion() != newest.GetVersion():
		return refuse(raftlogv1.Code_CODE_STALE, "version_moved", "template %q is at version %d, not %d", name, newest.GetVersion(), m.GetExpectedVersion())
	case newest.GetVersion()+1 == 0:
		return refuse(raftlogv1.Code_CODE_EXHAUSTED, "versions", "template %q has no versions left", name)
	}
	oldest, full := tx.crowded()
	switch {
	case found:
	case full && oldest == nil:
		return refuse(raftlogv1.Code_CODE_EXHAUSTED, "too_many", "there are %d templates, which is the maximum: delete one", MaxTemplates)
	case full:
		remove(tx, TableTemplates, tx.templates, templateKey(oldest.GetName(), oldest.GetVersion()))
	}
	if newest.GetDeletedAt() != 0 {
		remove(tx, TableTemplates, tx.templates, templateKey(name, newest.GetVersion()))
	}
	row := &raftlogv1.Template{
		Name: name, Version: newest.GetVersion() + 1, Spec: m.GetSpec(), Digest: m.GetDigest(),
		CreatedBy: m.GetCreatedBy(), CreatedAt: tx.now(), CreatedIndex: tx.index,
	}
	put(tx, TableTemplates, tx.templates, row)
	scheduled := tx.scheduledVersions(name)
	free := collect(where(tx.templates.withPrefix(name+"\x00"), func(r *raftlogv1.Template) bool { return !scheduled[r.GetVersion()] }))
	for len(free) > MaxTemplateVersions {
		remove(tx, TableTemplates, tx.templates, templateKey(name, free[0].GetVersion()))
		free = free[1:]
	}
	return granted(uint64(row.GetVersion()))
}

// scheduledVersions are the versions of the template of which schedules that go on are made.
func (t *tables) scheduledVersions(name string) map[uint32]bool {
	versions := make(map[uint32]bool)
	for s := range t.schedules.all() {
		if s.GetEndedAt() == 0 && s.GetSpec().GetTemplate() == name {
			versions[s.GetSpec().GetTemplateVersion()] = true
		}
	}
	return versions
}

// crowded says whether there is room for no other name, and which deleted template may
// make some; nil when there is none.
func (tx *tx) crowded() (oldest *raftlogv1.Template, full bool) {
	names := 0
	for r := range tx.newestTemplates() {
		names++
		if r.GetDeletedAt() != 0 && (oldest == nil || cmp.Or(cmp.Compare(r.GetDeletedAt(), oldest.GetDeletedAt()), cmp.Compare(r.GetName(), oldest.GetName())) < 0) {
			oldest = r
		}
	}
	return oldest, names >= MaxTemplates
}

// deleteTemplate forgets what all versions said. The number of the last one stays, so that
// a signed command never means another program than when it was signed.
func (tx *tx) deleteTemplate(m *raftlogv1.DeleteTemplate) *raftlogv1.Outcome {
	newest, found := tx.newestTemplate(m.GetName())
	switch {
	case !found:
		return refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_template", "there is no template %q", m.GetName())
	case m.GetExpectedVersion() != 0 && m.GetExpectedVersion() != newest.GetVersion():
		return refuse(raftlogv1.Code_CODE_STALE, "version_moved", "template %q is at version %d, not %d", m.GetName(), newest.GetVersion(), m.GetExpectedVersion())
	case newest.GetDeletedAt() != 0:
		return stands(uint64(newest.GetVersion()))
	}
	for _, r := range collect(tx.templates.withPrefix(m.GetName() + "\x00")) {
		if r.GetVersion() != newest.GetVersion() {
			remove(tx, TableTemplates, tx.templates, templateKey(r.GetName(), r.GetVersion()))
		}
	}
	put(tx, TableTemplates, tx.templates, &raftlogv1.Template{Name: newest.GetName(), Version: newest.GetVersion(), DeletedAt: max(tx.now(), 1)})
	return granted(uint64(newest.GetVersion()))
}
