package dispatch

import "sync/atomic"

// Stats counts since New. It is for metrics.
type Stats struct {
	Streams  int // now, with those that are still opening
	Sessions int // now

	Opened           uint64
	Refused          uint64 // in the handshake, for any reason but superseded
	Superseded       uint64
	Silent           uint64 // no heartbeat for too long
	Slow             uint64 // the agent did not read
	Flooded          uint64 // the agent sent too much
	Claims           uint64 // proposed
	Deliveries       uint64
	Cancels          uint64
	Keeps            uint64 // confirmations of operators
	Asks             uint64
	Reports          uint64 // received
	ReportsDropped   uint64 // malformed, above a bound, or of an attempt with another fence
	ReportsCut       uint64 // output or words above their bounds
	ReportsOvertaken uint64 // of RUNNING, in whose place the end went
	Confirms         uint64
	FactsDropped     uint64
	ProposalsFailed  uint64 // without an outcome
	ProposalsBacklog uint64 // not even queued
	Compactions      uint64 // of the feed, after which all was read again
}

type counters struct {
	opened, refused, superseded, silent, slow, flooded          atomic.Uint64
	claims, deliveries, cancels, keeps, asks                    atomic.Uint64
	reports, reportsDropped, reportsCut, confirms, factsDropped atomic.Uint64
	proposalsFailed, proposalsBacklog, compactions              atomic.Uint64
	reportsOvertaken                                            atomic.Uint64
}

// Stats answers the counters. May be called at any time.
func (d *Dispatcher) Stats() Stats {
	c := &d.count
	s := Stats{
		Opened: c.opened.Load(), Refused: c.refused.Load(), Superseded: c.superseded.Load(), Silent: c.silent.Load(),
		Slow: c.slow.Load(), Flooded: c.flooded.Load(), Claims: c.claims.Load(), Deliveries: c.deliveries.Load(),
		Cancels: c.cancels.Load(), Keeps: c.keeps.Load(), Asks: c.asks.Load(), Reports: c.reports.Load(), ReportsDropped: c.reportsDropped.Load(),
		ReportsCut: c.reportsCut.Load(), ReportsOvertaken: c.reportsOvertaken.Load(), Confirms: c.confirms.Load(), FactsDropped: c.factsDropped.Load(),
		ProposalsFailed: c.proposalsFailed.Load(), ProposalsBacklog: c.proposalsBacklog.Load(), Compactions: c.compactions.Load(),
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s.Streams = d.streams
	for _, list := range d.byAgent {
		for _, held := range list {
			if held.granted != 0 {
				s.Sessions++
			}
		}
	}
	return s
}
