// Package e2e tests agentplane from outside: it builds the binaries, starts real
// processes, breaks things (kill -9, pauses, full disks, damaged files) and judges
// what clients and programs saw. It holds only tests and what they share; nothing
// imports it.
//
// # What belongs here
//
// What needs a kernel: process death, sockets, files, certificates on disk. What
// can be shown in virtual time is shown beside the package it is about, where it
// costs milliseconds. The rules about the project itself (floors, folders, package
// comments) are here too, because this is the one floor that may see all others.
//
// # Short and full
//
// Every test has a short form, which go test ./... runs. With AGENTPLANE_E2E=full
// in the environment, which make e2e sets, the tests run for as long and kill as
// often as the promises ask.
//
// TestChaos, which make chaos runs, is asked for by itself: each run breaks a cluster of
// its own for a minute, with faults that README.md lists. As root it starts itself again in
// namespaces of network, mounts and processes, so that interfaces, mounts and processes end
// with it; it needs the programs ip, unshare and nsenter, and for some faults nft, tc, strace,
// mkfs.ext4, fsfreeze, the cpu controller of cgroup v1 or /dev/fuse. A fault whose means are missing is
// left out, with a line that says so.
//
// Reads that fail, writes of which a part gets to the disk, and disks of agents take a file system in
// user space, which shows a directory and fails for one process when it is told to. strace
// meets no page that a mapping has to read, and one tracer has one answer for all of a kind. It is
// written with github.com/hanwen/go-fuse/v2 (BSD-3, a release every few months), of which fs
// and fuse bring along golang.org/x/sys alone, which the product has already; bazil.org/fuse has
// no releases and leaves each request of a loopback to be written. Only tests import it, and a process of its own serves it (chaos_fuse_test.go).
//
// # A host of its own
//
// TestGuest, which make vm runs, has agentd on a host that really is started anew, loses its
// power, cuts itself off and freezes: a virtual machine of QEMU with a kernel of Debian, busybox
// and what is built here (vm_image_test.go). The nodes run beside it. It takes root, for namespaces
// and a tap device, and the packages qemu-system-x86, busybox-static, nftables, e2fsprogs and
// linux-image-cloud-amd64; the last one may also be unpacked somewhere (make vm VM_ROOT=).
//
// A cut of the power is SIGKILL of the machine: what the guest has not flushed is in its memory
// and gone, and no connection is closed, since its network is an Ethernet that falls silent.
// Therefore programs bear witness by a serial port, and go on when this test has written down
// that they begin: a line on the guest's own disk could be lost like all else there, and its
// fsync would take along what the product should have synced itself.
//
// # Who judges
//
// Nothing is judged by what the product says of itself alone. Programs that agents run
// are this test binary under another argument: each start adds a line to a file that the
// product knows nothing of, durable before the program goes on. Clients note what they
// were told. When all is over a pure function compares these with what the cluster
// shows; it is tested with histories that break each promise. Whether reads and writes
// through all nodes form a linearizable history is judged by porcupine
// (github.com/anishathalye/porcupine, MIT, no dependencies), which etcd's robustness
// tests use; unknown outcomes stay open to the end of the history.
//
// # Teeth
//
// A test that cannot fail shows nothing. For each promise there are mutants, in which one
// protection is taken out. The protections that can be are in the protections.go of
// their packages; under the build tag agentplane_mutants mutants.go takes its place, in
// which the environment's MUTANT names the one to take out. To see a test fail:
//
//	MUTANT=deposed go test -tags agentplane_mutants -run TestStories ./fsm
//
// The tests of this package build the programs with the tags in AGENTPLANE_E2E_TAGS:
//
//	MUTANT=incarnation,putback AGENTPLANE_E2E_TAGS=agentplane_mutants go test -run TestOldLeaderOfAnotherIncarnation ./e2e
//	MUTANT=verifyleader AGENTPLANE_E2E_TAGS=agentplane_mutants AGENTPLANE_E2E=full go test -run 'TestPausedLeaderNeverAnswersStale$' ./e2e
//
// `make teeth` does this for all of them, `make teeth M=NAME` for one. Each row says
// what is taken out, which promise that breaks, and the test that must fail. Two with a
// comma between are taken out together: each stands before the other. No promise is without
// a mutant; TestMutantsAreListed sees to that.
//
// `make hunt` lives with each mutant until a random life is red, which has to be within 500; README.md
// says after how many it was. Where a protection stands behind another one, so that nothing random gets
// there, that one is taken out with it.
//
//	earlyack         I1      controlplane/consensus  TestLives
//	outputack        I1      controlplane/output     TestOutputIsAcknowledgedByAMajority
//	outputack        I1      e2e/sim                 TestLives
//	bloback          I1      controlplane/depot      TestAnUploadIsOnEnoughDisksAndInTheState
//	bloback          I1      e2e/sim                 TestLives
//	putback          I1 I13  controlplane            TestMemoryRefusesADiskThatWasPutBack
//	putback          I1 I13  e2e                     TestOldLeaderFromADiskImage
//	putback          I1 I13  e2e/sim                 TestLives
//	claimtwice       I2      fsm                     TestStories
//	claimtwice       I2      fsm                     TestAttemptsMatchTheirTwin
//	claimtwice,reclaim I2    e2e/sim                 TestLives
//	locks            none    fsm                     TestAttemptsMatchTheirTwin
//	locks            none    fsm                     TestStories
//	locks            none    e2e/sim                 TestLives
//	locks            none    e2e                     TestLocksKeepProgramsApart
//	oldclaim         I3      controlplane/dispatch  TestClaimIsDeliveredAgainOnAnotherNode
//	nofsync          I2      agent/journal           TestPowerCuts
//	nofsync          I2      e2e/sim                 TestLives
//	startagain       I2      agent/execute           TestStartRefuses
//	startagain       I2      e2e/sim                 TestLives
//	stepagain        I2      agent/execute           TestARebootThatWasNotAnnouncedIsLost
//	stepagain        I2      e2e/sim                 TestLives
//	undoagain        I2      agent/execute           TestUndoKilledAtEveryPoint
//	undoagain        I2      e2e/sim                 TestLives
//	noreboot         none    agent/execute           TestCancelEndsTheWaitForAReboot
//	noreboot         none    e2e/sim                 TestLives
//	undokept         none    agent/journal           TestAConfirmationAndAnUndoRuleEachOtherOut
//	deafundo         none    agent/execute           TestContactConfirms
//	undokept,deafundo none   e2e/sim                 TestLives
//	spoilt           none    agent/execute           TestContentsAreComparedBeforeAProgramHasThem
//	spoilt           none    e2e/sim                 TestLives
//	journalbehind    I2      fsm                     TestStories
//	journalbehind    I2      e2e                     TestBadDayRestoredAgent
//	journallost      I2 I3   fsm                     TestStories
//	journallost      I2 I3   e2e                     TestBadDayWipedAgent
//	expiry           I3      controlplane/rollout    TestReleasesAtOnceAndExpiresInTime
//	hasty            I3      controlplane/rollout    TestJudge
//	hasty            I3      e2e/sim                 TestLives
//	deposed          I4      fsm                     TestStories
//	deposed,reoffer  I4      e2e/sim                 TestLives
//	tornvote         I4      controlplane/consensus  TestTornVoteDoesNotElectAStaleLog
//	tornvote         I4      controlplane/consensus  TestLives
//	termchange       I4      controlplane/consensus  TestHeartbeatOfALaterTermWaitsForTheMainLoop
//	termchange       I4 I9   controlplane/consensus  TestLives
//	epoch            I5      fsm                     TestStories
//	delivery         I5      agent/session           TestDeliveriesOfOtherSessionsAreDropped
//	delivery,grant   I5      e2e/sim                 TestLives
//	cancel           I6      fsm                     TestStateKeepsItsPromises
//	pause            I6      fsm                     TestStories
//	pause,heedless   I6      e2e/sim                 TestLives
//	breach           I6      controlplane/rollout    TestFailuresStopTheBatch
//	verifyleader     I7      controlplane/consensus  TestPausedLeaderNeverAnswersStaleReads
//	verifyleader     I7      e2e                     TestPausedLeaderNeverAnswersStale
//	watchgap         I7      controlplane/operator   TestWatchCommandFromCopyToEnd
//	watchgap         I7      e2e/sim                 TestLives
//	digest           I8      fsm                     TestStories
//	firetwice        I8      fsm                     TestStories
//	firetwice,refire I8      e2e/sim                 TestLives
//	clock            I9      fsm                     TestTwoReplicasAgree
//	snapshot         I9      fsm                     TestSnapshotAndRestIsTheWholeLog
//	lonelyread       I7 I10  controlplane/consensus  TestPausedLeaderNeverAnswersStaleReads
//	starvation       I11     controlplane/consensus  TestFollowerWhoseAppendFailedIsNotStarved
//	falsedeath       I11     controlplane/health     TestDeadNodeBeginsGraceAndThenDown
//	registration     I12     proto/identity          TestServerJudgesClients
//	registration     I12     e2e                     TestOldLeaderThatWasRemoved
//	registration     I12     e2e/sim                 TestLives
//	othercluster     I12 I13 proto/identity          TestServerJudgesClients
//	othercluster     I12 I13 e2e                     TestOldLeaderOfAWipedCluster
//	othercluster     I12 I13 e2e/sim                 TestLives
//	othercluster,issuer I12 I13 e2e/sim              TestLives
//	issuer           I12     proto/identity          TestServerJudgesClients
//	roles            I12     controlplane/authz      TestGate
//	roles            I12     e2e/sim                 TestLives
//	incarnation      I13     controlplane/peer       TestStreamRefusesByPreface
//	incarnation,putback I13  e2e                     TestOldLeaderOfAnotherIncarnation
//	oldnode          I13     agent/session           TestNodesOfAnotherClusterOrAnOlderLifeAreNotTalkedTo
//	oldnode          I13     e2e/sim                 TestLives
//	preface          I13     controlplane/peer       TestStreamRefusesByPreface
//	preface          I13     e2e                     TestOldLeaderOfAnotherIncarnation
//	incarnation      I13     e2e/sim                 TestLives
//	preface          I13     e2e/sim                 TestLives
//	queuemax         I14     fsm                     TestAttemptsMatchTheirTwin
//	queuemax         I14     fsm                     TestStories
//	queuemax         I14     e2e/sim                 TestLives
//	leak             I14     e2e/sim                 TestLives
//	queue            I14     controlplane/consensus  TestBatcherQueueIsBoundedByBytes
//	queue            I14     controlplane/consensus  TestLives
//
// # Death at a point
//
// TestKillMatrix builds the programs with the tag agentplane_points (points_die.go of their
// packages): a process that comes to the point whose name stands in the file POINT takes
// the file and kills itself. So each death is at the step it is meant for, and the test
// knows that it was met. README.md lists which step is killed where.
//
// # When a run fails
//
// A run prints its seed first; AGENTPLANE_E2E_SEED runs the same faults again. On failure every log of every process is kept, and
// the test says where. Tests wait for conditions with a deadline, never for time to
// pass. A test whose means are missing on the machine skips and says which.
package e2e
