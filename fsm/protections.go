//go:build !agentplane_mutants

package fsm

// cancelMeansNever says that an attempt that is not claimed when its command is canceled
// is never claimed (I6).
const cancelMeansNever = true

// claimsOnce says that an attempt is claimed once (I2).
const claimsOnce = true

// timeOf is the time of an entry that is stamped now: its stamp and nothing else, so
// that all replicas agree (I9).
func timeOf(now int64) int64 { return now }

// refusesDeposed says that an entry of a leader who has left office changes nothing
// (I4).
const refusesDeposed = true

// comparesDigests says that an id that stands for other content is a conflict (I8).
const comparesDigests = true

// comparesEpochs says that what is asked in the name of an older session is refused
// (I5).
const comparesEpochs = true

// firesOnce says that a slot of a schedule is settled once, whichever leader says so (I8).
const firesOnce = true

// comparesJournals says that an agent whose journal is behind what the cluster has seen
// of it is quarantined (I2).
const comparesJournals = true

// losesWithJournal says that what was claimed under a journal that is gone is LOST (I2,
// I3).
const losesWithJournal = true

// respectsLocks says that a claim waits for the locks that it needs.
const respectsLocks = true

// pauseStops says that nothing of a paused command is claimed.
const pauseStops = true

// judgesAtOnce says that failures stop a rollout in the entry that counts them.
const judgesAtOnce = true

// snapshotsSessions says that sessions are part of a snapshot, as every table is (I9).
const snapshotsSessions = true

// boundsQueues says that an agent whose queue is full is sent nothing more (I14).
const boundsQueues = true
