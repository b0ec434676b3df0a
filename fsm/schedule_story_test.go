package fsm

import (
	"strings"
	"time"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func putScheduleVerb(c *call) *raftlogv1.Mutation {
	row, _ := c.s.m.View().Schedule(c.word(0))
	spec := &raftlogv1.ScheduleSpec{
		Command: []byte(c.text("command", "true")), Cron: strings.ReplaceAll(c.text("cron", ""), "_", " "), Ttl: int64(c.duration("ttl", 5*time.Minute)),
		Overlap: raftlogv1.Overlap(raftlogv1.Overlap_value["OVERLAP_"+c.text("overlap", "SKIP")]),
		Missed:  raftlogv1.Missed(raftlogv1.Missed_value["MISSED_"+c.text("missed", "SKIP")]),
	}
	if d := c.duration("at", 0); d != 0 {
		spec.At = storyBegin.Add(d).UnixNano()
	}
	if d := c.duration("until", 0); d != 0 {
		spec.Until = storyBegin.Add(d).UnixNano()
	}
	m := &raftlogv1.PutSchedule{Name: c.word(0), Id: c.s.id(c.text("id", c.word(0)), c.duration("made", 0)), Spec: spec, By: "ann"}
	if c.text("change", "") != "" {
		m.ExpectedVersion = c.int("version", row.GetVersion())
	}
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PutSchedule{PutSchedule: m}}
}

// fireVerb fires NAME at=TIME command=NAME on=AGENTS, or says why there is no command.
func fireVerb(c *call) *raftlogv1.Mutation {
	row, _ := c.s.m.View().Schedule(c.word(0))
	m := &raftlogv1.FireSchedule{
		Name: c.word(0), Id: c.text("id", row.GetId()), Version: c.int("version", row.GetVersion()), Slot: storyBegin.Add(c.duration("at", c.s.now.Sub(storyBegin))).UnixNano(),
		Reason: c.text("reason", ""), Missed: uint32(c.int("missed", 0)), RunBy: c.text("by", ""),
	}
	if m.Reason == "" {
		c.words = []string{c.text("command", "")}
		m.Submit = submitVerb(c).GetSubmitCommand()
	}
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_FireSchedule{FireSchedule: m}}
}

func (c *call) scheduleKeys() []*raftlogv1.ScheduleKey {
	var keys []*raftlogv1.ScheduleKey
	for _, name := range c.words {
		row, _ := c.s.m.View().Schedule(name)
		keys = append(keys, &raftlogv1.ScheduleKey{Name: name, Id: row.GetId(), Version: row.GetVersion()})
	}
	return keys
}
