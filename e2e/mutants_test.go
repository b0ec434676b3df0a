package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agentplane/agentplane/e2e/record"
)

// mutantsTag is the build tag under which MUTANT, in the environment, names the
// protection that is taken out.
const mutantsTag = "agentplane_mutants"

// catch says that a mutant, in which one protection is taken out, makes a test fail.
type catch struct {
	mutant   string
	promises string // of DESIGN section 1 that the mutant breaks
	pkg      string // "e2e" when the programs are built with the tag, and not the test
	test     string
	says     string   // part of what the test prints then
	args     []string // further ones of the test
	full     bool     // the short form may miss it
	// with is another mutant that is taken out at the same time: a protection that
	// stands before this one, without which alone nothing shows either.
	with  string
	lives int // how many simulated ones are enough
}

// name is what the environment's MUTANT is.
func (c catch) name() string {
	if c.with == "" {
		return c.mutant
	}
	return c.mutant + "," + c.with
}

// noFailFile keeps rapid from writing what failed into testdata.
var noFailFile = []string{"-rapid.nofailfile"}

// catches is the table of mutants. To add one: the protection in protections.go of its
// package and what is without it in mutants.go beside that; a row here, with the
// cheapest test that fails; a line in doc.go.
var catches = []catch{
	{mutant: "earlyack", promises: "I1", pkg: "controlplane/consensus", test: "TestLives", says: "acknowledged at index 0 before the read began, is missing"},
	{mutant: "outputack", promises: "I1", pkg: "controlplane/output", test: "TestOutputIsAcknowledgedByAMajority", says: "was acknowledged while one node of three had it"},
	{mutant: "outputack", promises: "I1", pkg: "e2e/sim", test: "TestLives", lives: 20, says: "that one node alone keeps"},
	{mutant: "bloback", promises: "I1", pkg: "controlplane/depot", test: "TestAnUploadIsOnEnoughDisksAndInTheState", says: "want two, one of them"},
	{mutant: "bloback", promises: "I1", pkg: "e2e/sim", test: "TestLives", lives: 60, says: "a content was recorded that one node alone keeps"},
	{mutant: "putback", promises: "I1 I13", pkg: "controlplane", test: "TestMemoryRefusesADiskThatWasPutBack"},
	{mutant: "putback", promises: "I1 I13", pkg: "e2e", test: "TestOldLeaderFromADiskImage", says: "the old leader"},
	{mutant: "putback", promises: "I1 I13", pkg: "e2e/sim", test: "TestLives", lives: 150, says: "with a disk that was put back"},
	{mutant: "claimtwice", promises: "I2", pkg: "fsm", test: "TestStories", says: "testdata/journals.txt tells another story"},
	{mutant: "claimtwice", promises: "I2", pkg: "fsm", test: "TestAttemptsMatchTheirTwin", args: []string{"-rapid.nofailfile", "-rapid.checks=3000"}},
	{mutant: "claimtwice", with: "reclaim", promises: "I2", pkg: "e2e/sim", test: "TestLives", lives: 80, says: "was claimed twice"},
	{mutant: "locks", promises: "none", pkg: "fsm", test: "TestAttemptsMatchTheirTwin", args: noFailFile},
	{mutant: "locks", promises: "none", pkg: "fsm", test: "TestStories", says: "testdata/locks.txt tells another story"},
	{mutant: "locks", promises: "none", pkg: "e2e/sim", test: "TestLives", lives: 40, says: "places, of which"},
	{mutant: "locks", promises: "none", pkg: "e2e", test: "TestLocksKeepProgramsApart", says: "some ran beside others"},
	{mutant: "nofsync", promises: "I2", pkg: "agent/journal", test: "TestPowerCuts", args: noFailFile},
	{mutant: "nofsync", promises: "I2", pkg: "e2e/sim", test: "TestLives", lives: 200},
	{mutant: "startagain", promises: "I2", pkg: "agent/execute", test: "TestStartRefuses"},
	{mutant: "startagain", promises: "I2", pkg: "e2e/sim", test: "TestLives", lives: 60},
	{mutant: "stepagain", promises: "I2", pkg: "agent/execute", test: "TestARebootThatWasNotAnnouncedIsLost"},
	{mutant: "stepagain", promises: "I2", pkg: "e2e/sim", test: "TestLives", lives: 20, says: "I2: "},
	{mutant: "undoagain", promises: "I2", pkg: "agent/execute", test: "TestUndoKilledAtEveryPoint"},
	{mutant: "undoagain", promises: "I2", pkg: "e2e/sim", test: "TestLives", lives: 40, says: "the undo was started 2 times"},
	{mutant: "noreboot", promises: "none", pkg: "agent/execute", test: "TestCancelEndsTheWaitForAReboot"},
	{mutant: "noreboot", promises: "none", pkg: "e2e/sim", test: "TestLives", lives: 20},
	{mutant: "undokept", promises: "none", pkg: "agent/journal", test: "TestAConfirmationAndAnUndoRuleEachOtherOut", says: "it is undone: <nil>"},
	{mutant: "deafundo", promises: "none", pkg: "agent/execute", test: "TestContactConfirms"},
	{mutant: "undokept", with: "deafundo", promises: "none", pkg: "e2e/sim", test: "TestLives", lives: 40, says: "has confirmed it"},
	{mutant: "spoilt", promises: "none", pkg: "agent/execute", test: "TestContentsAreComparedBeforeAProgramHasThem"},
	{mutant: "spoilt", promises: "none", pkg: "e2e/sim", test: "TestLives", lives: 100, says: "another file than was asked for"},
	{mutant: "journalbehind", promises: "I2", pkg: "fsm", test: "TestStories", says: "testdata/journals.txt tells another story"},
	{mutant: "journalbehind", promises: "I2", pkg: "e2e", test: "TestBadDayRestoredAgent", says: "a1 is quarantined for journal_behind"},
	{mutant: "journallost", promises: "I2 I3", pkg: "fsm", test: "TestStories", says: "tells another story"},
	{mutant: "journallost", promises: "I2 I3", pkg: "e2e", test: "TestBadDayWipedAgent", says: "is LOST"},
	{mutant: "expiry", promises: "I3", pkg: "controlplane/rollout", test: "TestReleasesAtOnceAndExpiresInTime"},
	{mutant: "hasty", promises: "I3", pkg: "controlplane/rollout", test: "TestJudge", says: "Judge"},
	{mutant: "hasty", promises: "I3", pkg: "e2e/sim", test: "TestLives", lives: 40, says: "after its agent's session has ended"},
	{mutant: "oldclaim", promises: "I3", pkg: "controlplane/dispatch", test: "TestClaimIsDeliveredAgainOnAnotherNode"},
	{mutant: "deposed", promises: "I4", pkg: "fsm", test: "TestStories", says: "testdata/office.txt tells another story"},
	{mutant: "deposed", with: "reoffer", promises: "I4", pkg: "e2e/sim", test: "TestLives", lives: 100, says: "I4: a mutation of leader"},
	{mutant: "tornvote", promises: "I4", pkg: "controlplane/consensus", test: "TestTornVoteDoesNotElectAStaleLog", says: "a stale log got the vote"},
	{mutant: "tornvote", promises: "I4", pkg: "controlplane/consensus", test: "TestLives", lives: 200, says: "gave its vote of term"},
	{mutant: "epoch", promises: "I5", pkg: "fsm", test: "TestStories", says: "testdata/sessions.txt tells another story"},
	{mutant: "delivery", promises: "I5", pkg: "agent/session", test: "TestDeliveriesOfOtherSessionsAreDropped"},
	{mutant: "delivery", with: "grant", promises: "I5", pkg: "e2e/sim", test: "TestLives", lives: 60, says: "has delivered in the name of another session"},
	{mutant: "cancel", promises: "I6", pkg: "fsm", test: "TestStateKeepsItsPromises", args: noFailFile},
	{mutant: "pause", promises: "I6", pkg: "fsm", test: "TestStories", says: "testdata/waves.txt tells another story"},
	{mutant: "pause", with: "heedless", promises: "I6", pkg: "e2e/sim", test: "TestLives", lives: 60, says: "and yet has claimed"},
	{mutant: "breach", promises: "I6", pkg: "controlplane/rollout", test: "TestFailuresStopTheBatch", says: "has claimed after the second failure"},
	{mutant: "verifyleader", promises: "I7", pkg: "controlplane/consensus", test: "TestPausedLeaderNeverAnswersStaleReads", says: "stale reads"},
	{mutant: "verifyleader", promises: "I7", pkg: "e2e", test: "TestPausedLeaderNeverAnswersStale", says: "miss a write", full: true},
	{mutant: "watchgap", promises: "I7", pkg: "controlplane/operator", test: "TestWatchCommandFromCopyToEnd", says: "after the first result", args: []string{"-count=50"}},
	{mutant: "watchgap", promises: "I7", pkg: "e2e/sim", test: "TestLives", lives: 40, says: "I7: "},
	{mutant: "digest", promises: "I8", pkg: "fsm", test: "TestStories", says: "testdata/commands.txt tells another story"},
	{mutant: "firetwice", promises: "I8", pkg: "fsm", test: "TestStories", says: "testdata/schedules.txt tells another story"},
	{mutant: "firetwice", with: "refire", promises: "I8", pkg: "e2e/sim", test: "TestLives", lives: 40, says: "I8: has settled its slot"},
	{mutant: "clock", promises: "I9", pkg: "fsm", test: "TestTwoReplicasAgree", args: noFailFile},
	{mutant: "snapshot", promises: "I9", pkg: "fsm", test: "TestSnapshotAndRestIsTheWholeLog", args: noFailFile},
	{mutant: "termchange", promises: "I4", pkg: "controlplane/consensus", test: "TestHeartbeatOfALaterTermWaitsForTheMainLoop"},
	{mutant: "termchange", promises: "I4 I9", pkg: "controlplane/consensus", test: "TestLives", lives: 200, says: "two nodes wrote in one term"},
	{mutant: "lonelyread", promises: "I7 I10", pkg: "controlplane/consensus", test: "TestPausedLeaderNeverAnswersStaleReads", says: "stale reads"},
	{mutant: "starvation", promises: "I11", pkg: "controlplane/consensus", test: "TestFollowerWhoseAppendFailedIsNotStarved"},
	{mutant: "falsedeath", promises: "I11", pkg: "controlplane/health", test: "TestDeadNodeBeginsGraceAndThenDown"},
	{mutant: "registration", promises: "I12", pkg: "proto/identity", test: "TestServerJudgesClients"},
	{mutant: "registration", promises: "I12", pkg: "e2e", test: "TestOldLeaderThatWasRemoved", says: "today's leader refuses the old one and says why"},
	{mutant: "registration", promises: "I12", pkg: "e2e/sim", test: "TestLives", lives: 100},
	{mutant: "othercluster", promises: "I12 I13", pkg: "proto/identity", test: "TestServerJudgesClients"},
	{mutant: "othercluster", promises: "I12 I13", pkg: "e2e", test: "TestOldLeaderOfAWipedCluster", says: "today's leader refuses the old one and says why"},
	{mutant: "othercluster", promises: "I12 I13", pkg: "e2e/sim", test: "TestLives", lives: 20, says: "I12: somebody with a certificate of another cluster was let renew"},
	{mutant: "othercluster", with: "issuer", promises: "I12 I13", pkg: "e2e/sim", test: "TestLives", lives: 60, says: "with a certificate of another cluster was "},
	{mutant: "issuer", promises: "I12", pkg: "proto/identity", test: "TestServerJudgesClients"},
	{mutant: "roles", promises: "I12", pkg: "controlplane/authz", test: "TestGate"},
	{mutant: "roles", promises: "I12", pkg: "e2e/sim", test: "TestLives", lives: 40, says: "I12: an operator who may only read was let"},
	{mutant: "incarnation", promises: "I13", pkg: "controlplane/peer", test: "TestStreamRefusesByPreface"},
	{mutant: "incarnation", with: "putback", promises: "I13", pkg: "e2e", test: "TestOldLeaderOfAnotherIncarnation", says: "the old leader has moved"},
	{mutant: "oldnode", promises: "I13", pkg: "agent/session", test: "TestNodesOfAnotherClusterOrAnOlderLifeAreNotTalkedTo"},
	{mutant: "oldnode", promises: "I13", pkg: "e2e/sim", test: "TestLives", lives: 100, says: "went on with a node of another incarnation"},
	{mutant: "preface", promises: "I13", pkg: "controlplane/peer", test: "TestStreamRefusesByPreface"},
	{mutant: "preface", promises: "I13", pkg: "e2e", test: "TestOldLeaderOfAnotherIncarnation", says: "the old leader has moved"},
	{mutant: "incarnation", promises: "I13", pkg: "e2e/sim", test: "TestLives", lives: 100, says: "I13: leader of another incarnation was answered"},
	{mutant: "preface", promises: "I13", pkg: "e2e/sim", test: "TestLives", lives: 100, says: "I13: leader of another incarnation was answered"},
	{mutant: "queuemax", promises: "I14", pkg: "fsm", test: "TestAttemptsMatchTheirTwin", args: noFailFile},
	{mutant: "queuemax", promises: "I14", pkg: "fsm", test: "TestStories", says: "testdata/commands.txt tells another story"},
	{mutant: "queuemax", promises: "I14", pkg: "e2e/sim", test: "TestLives", lives: 40, says: "wait for its agent, of which 3 may"},
	{mutant: "leak", promises: "I14", pkg: "e2e/sim", test: "TestLives", lives: 5, says: "I14: "},
	{mutant: "queue", promises: "I14", pkg: "controlplane/consensus", test: "TestBatcherQueueIsBoundedByBytes", says: "want ErrBacklog"},
	{mutant: "queue", promises: "I14", pkg: "controlplane/consensus", test: "TestLives", lives: 20, says: "I14: "},
}

// command is the line that a person types to see it.
func (c catch) command() (env, args []string) {
	args = []string{"test", "-count=1"}
	env = append(env, "MUTANT="+c.name())
	if c.lives > 0 {
		args = append(args, "-failfast")
		env = append(env, fmt.Sprintf("AGENTPLANE_SIM_LIVES=%d", c.lives), "AGENTPLANE_SIM_SHRINK=0")
	}
	if c.pkg == "e2e" {
		env = append(env, "AGENTPLANE_E2E_TAGS="+mutantsTag)
	} else {
		args = append(args, "-tags", mutantsTag)
	}
	if c.full {
		env = append(env, "AGENTPLANE_E2E=full")
	}
	args = append(args, "-run", "^"+c.test+"$", "./"+c.pkg)
	return env, append(args, c.args...)
}

// TestMutants runs each row of the table. It builds much of the project once for each,
// so that `make teeth` alone asks for it.
func TestMutants(t *testing.T) {
	const asked = "AGENTPLANE_TEETH"
	if os.Getenv(asked) == "" {
		t.Skipf("SKIPPED: %s is not set, as make teeth does: taking out each protection in turn takes long", asked)
	}
	// With nothing taken out each test passes in the same build: it is the mutant that
	// makes it fail. Those that start processes are part of every run without the tag.
	tried := map[string]bool{}
	for _, c := range catches {
		if c.mutant, c.with = "none", ""; c.pkg == "e2e" || tried[c.pkg+c.test] {
			continue
		}
		tried[c.pkg+c.test] = true
		t.Run("none/"+c.test, func(t *testing.T) {
			env, args := c.command()
			cmd := exec.CommandContext(t.Context(), "go", args...)
			cmd.Dir, cmd.Env = "..", slices.Concat(environWithout("AGENTPLANE_"), env, []string{"TMPDIR=" + t.TempDir()})
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("no protection is taken out and the test fails: %v\n%s", err, out)
			}
		})
	}
	for _, c := range catches {
		t.Run(c.name()+"/"+c.test, func(t *testing.T) {
			env, args := c.command()
			t.Log(strings.Join(slices.Concat(env, []string{"go"}, args), " "))
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "go", args...)
			// What a failing test keeps for a look is of no use here.
			cmd.Dir, cmd.Env = "..", slices.Concat(environWithout("AGENTPLANE_"), env, []string{"TMPDIR=" + t.TempDir()})
			var printed bytes.Buffer
			cmd.Stdout, cmd.Stderr = &printed, &printed
			begun := time.Now()
			err := cmd.Run()
			line := record.Line{Means: "teeth", What: c.name() + "/" + c.pkg + "." + c.test, Runs: 1, Took: time.Since(begun)}
			switch out := printed.String(); {
			case err == nil:
				t.Errorf("the protection is taken out and the test passes: it has no teeth\n%s", out)
				line.Failed = 1
			case !strings.Contains(out, "--- FAIL: "+c.test) || !strings.Contains(out, c.says):
				t.Errorf("the test does not fail as it should (it should say %q): %v\n%s", c.says, err, out)
				line.Failed = 1
			default:
				t.Logf("caught after %v: %s", line.Took.Round(time.Second), c.complaint(out))
				line.Good = 1
			}
			if err := record.Append(line); err != nil {
				t.Error(err)
			}
		})
	}
}

// complaint is the line in which the test says what is wrong.
func (c catch) complaint(out string) string {
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); (c.says != "" || strings.Contains(line, "_test.go:")) && strings.Contains(line, c.says) {
			return line[:min(len(line), 200)]
		}
	}
	return "it failed"
}

func environWithout(prefix string) []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, prefix) })
}

// TestMutantsAreListed keeps the table, the files and the documentation together.
func TestMutantsAreListed(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	files := mutantFiles(t)
	broken := map[string]bool{}
	for _, c := range catches {
		for name := range strings.SplitSeq(c.name(), ",") {
			if files[name] == "" {
				t.Errorf("mutant %q is in no mutants.go", name)
			}
		}
		if !slices.ContainsFunc(strings.Split(string(doc), "\n"), func(l string) bool {
			f := strings.Fields(l)
			return len(f) > 4 && f[1] == c.name() && slices.Contains(f, c.pkg) && f[len(f)-1] == c.test
		}) {
			t.Errorf("doc.go has no line of mutant %q, package %s and %s", c.name(), c.pkg, c.test)
		}
		for p := range strings.FieldsSeq(c.promises) {
			broken[p] = true
		}
	}
	for name, file := range files {
		if !slices.ContainsFunc(catches, func(c catch) bool { return c.mutant == name || c.with == name }) {
			t.Errorf("%s: nothing says which test catches it", file)
		}
	}
	for i := 1; i <= 14; i++ {
		if p := fmt.Sprintf("I%d", i); !broken[p] {
			t.Errorf("no mutant breaks %s", p)
		}
	}
}

// named is a mutant's name where the product asks for it.
var named = regexp.MustCompile(`mutates\("([a-z]+)"\)`)

// mutantFiles finds the mutants and the files that hold them, and checks that no build
// without the tag has them.
func mutantFiles(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir("..", func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && strings.HasPrefix(e.Name(), ".") && e.Name() != ".." {
			return filepath.SkipDir
		}
		if e.Name() != "mutants.go" && e.Name() != "protections.go" {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		first, _, _ := strings.Cut(string(b), "\n")
		want := "//go:build " + mutantsTag
		if e.Name() == "protections.go" {
			want = "//go:build !" + mutantsTag
		}
		if first != want {
			t.Errorf("%s begins with %q, want %q", path, first, want)
		}
		for _, name := range named.FindAllStringSubmatch(string(b), -1) {
			if other := found[name[1]]; other != "" {
				t.Errorf("mutant %q is in %s and in %s", name[1], other, path)
			}
			found[name[1]] = path
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
