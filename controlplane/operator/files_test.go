package operator

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func someBlob(digit string) *agentplanev1.Blob {
	return &agentplanev1.Blob{Sha256: strings.Repeat(digit, 64), Size: 3}
}

func (w *world) keep(b *agentplanev1.Blob) {
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RecordBlob{RecordBlob: &raftlogv1.RecordBlob{
		NodeId: "n1", NodeIds: []string{"n1"}, Blob: &raftlogv1.BlobRef{Sha256: b.GetSha256(), Size: b.GetSize()}, MaxBytes: 1000, MaxBlobs: 10,
	}}})
}

func TestCommandsBringWhatIsKept(t *testing.T) {
	w := fleetWorld(t)
	spec := w.spec("all")
	spec.Files = []*agentplanev1.File{{Path: "/etc/x", Content: someBlob("b")}, {Path: "/etc/y", Content: someBlob("b")}}
	spec.Stdin = someBlob("a")
	plan, err := w.Commands.Plan(t.Context(), &agentplanev1.PlanRequest{Envelope: envelope(t, spec)})
	if err != nil || len(plan.GetMissing()) != 2 || plan.GetMissing()[0].GetSha256() != spec.GetStdin().GetSha256() {
		t.Errorf("a plan says that %v are missing (%v), want both contents", plan.GetMissing(), err)
	}
	_, err = w.Commands.Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope(t, spec)})
	wantRefusal(t, err, codes.FailedPrecondition, "no_blob")
	w.keep(someBlob("a"))
	_, err = w.Commands.Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope(t, spec)})
	wantRefusal(t, err, codes.FailedPrecondition, "no_blob")
	w.keep(someBlob("b"))
	cmd := w.submit(spec)
	row, _ := w.m.View().Command(cmd.GetId())
	if len(row.GetBlobs()) != 2 {
		t.Errorf("the command names %v", row.GetBlobs())
	}
	if plan, err = w.Commands.Plan(t.Context(), &agentplanev1.PlanRequest{Envelope: envelope(t, w.spec("all"))}); err != nil || len(plan.GetMissing()) != 0 {
		t.Errorf("a plan without files: %v (%v)", plan, err)
	}
}

func TestWhatCannotBeBroughtIsRefused(t *testing.T) {
	w := fleetWorld(t)
	for name, edit := range map[string]func(*agentplanev1.CommandSpec){
		"a path that is not absolute": func(s *agentplanev1.CommandSpec) { s.Files[0].Path = "etc/x" },
		"a path that goes up":         func(s *agentplanev1.CommandSpec) { s.Files[0].Path = "/etc/../x" },
		"another's rights":            func(s *agentplanev1.CommandSpec) { s.Files[0].Mode = 0o4755 },
		"a content without a name":    func(s *agentplanev1.CommandSpec) { s.Files[0].Content = nil },
		"an input without a name":     func(s *agentplanev1.CommandSpec) { s.Stdin = &agentplanev1.Blob{} },
		"two files in one place":      func(s *agentplanev1.CommandSpec) { s.Files = append(s.Files, s.Files[0]) },
	} {
		spec := w.spec("all")
		spec.Files = []*agentplanev1.File{{Path: "/etc/x", Content: someBlob("b")}}
		edit(spec)
		t.Run(name, func(t *testing.T) {
			_, err := w.Commands.Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope(t, spec)})
			wantRefusal(t, err, codes.InvalidArgument, "files")
		})
	}
}

// Who may run templates alone brings nothing along, and a schedule would outlive it.
func TestTemplatesAndSchedulesBringNothing(t *testing.T) {
	w := fleetWorld(t)
	w.keep(someBlob("b"))
	tmpl := restartTemplate(t)
	if _, err := w.put("restart", tmpl, 0); err != nil {
		t.Fatal(err)
	}
	for _, edit := range []func(*agentplanev1.CommandSpec){
		func(s *agentplanev1.CommandSpec) {
			s.Files = []*agentplanev1.File{{Path: "/etc/x", Content: someBlob("b")}}
		},
		func(s *agentplanev1.CommandSpec) { s.Stdin = someBlob("b") },
	} {
		spec := w.fromTemplate(tmpl)
		edit(spec)
		_, err := w.Templates.RunTemplate(t.Context(), &agentplanev1.RunTemplateRequest{Envelope: envelope(t, spec)})
		wantRefusal(t, err, codes.PermissionDenied, "beside_template")
		_, err = w.Commands.Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope(t, spec)})
		wantRefusal(t, err, codes.InvalidArgument, "files")
		_, err = w.Schedules.PutSchedule(t.Context(), w.putRequest("nightly", func(s *agentplanev1.ScheduleSpec) { edit(s.Command) }))
		wantRefusal(t, err, codes.InvalidArgument, "files")
	}
}
