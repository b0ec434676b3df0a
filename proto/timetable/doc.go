// Package timetable says when a schedule is due: it turns a cron expression and a
// time zone into slots, which are instants. agentctl checks with it what was typed, and
// the leader computes with it which slots are due. Nobody else does: what is replicated
// is the instant of a slot and never the way to it, so that nodes with other rules of
// time zones cannot disagree about one.
//
// # What it promises
//
// Slots of a [Timetable] ascend strictly, lie on whole minutes of their zone's clock, and
// depend on the expression, the zone's rules and the time asked about alone. Two days in
// the year have no or two of some times of day:
//
//   - An expression that names hours means the time of day, once a day. A slot in the
//     hour that is left out comes due at the moment at which the clock jumps; several of
//     them are one slot. A slot in the hour that comes twice comes due the first time.
//   - An expression whose hour is * (every hour, every ten minutes) means time that goes
//     by: nothing is left out, and in the hour that comes twice it goes on.
//
// # Whence the rules of time zones
//
// From the host's zone files where it has them, since they are newer than this build
// when the host is kept up to date; else from those that Go embeds ("time/tzdata"), so
// that a host without them is no error. A leader on a host with older rules computes
// other slots after its election, from then on; what was fired stays fired.
//
// # Why robfig/cron
//
// Only its parser and its search over one plain calendar are used, always in UTC: its own
// ways with daylight saving lose a slot in the hour that is left out and fire twice in the
// one that comes twice (see above for what is done in their place). What was weighed: a
// parser of our own is 200 lines whose dialect nobody knows; gronx and gorhill/cronexpr
// allow seconds and years, which are not wanted. "@every D" is refused: it has no slots,
// since it counts from when somebody began; so are zones inside of the expression, which
// the parser also panics on when they stand alone.
package timetable
