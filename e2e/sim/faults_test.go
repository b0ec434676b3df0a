package sim

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// TestFaultsTakeEffectOnWhatTheyMeet has faults come to a world in which no process runs, and in
// which something goes on that they meet, or something that they do not.
func TestFaultsTakeEffectOnWhatTheyMeet(t *testing.T) {
	toNode := func(t *testing.T, w *World) { talk(t, w, w.nodes[1].ip, w.nodes[0].ip) }
	elsewhere := func(t *testing.T, w *World) { talk(t, w, w.nodes[1].ip, w.nodes[2].ip) }
	ofAgent := func(t *testing.T, w *World) { talk(t, w, w.agents[0].ip, w.nodes[0].ip) }
	store := func(t *testing.T, w *World) { storeOn(t, w, 0) }
	for kind, test := range map[string]struct{ met, other func(*testing.T, *World) }{
		"kill node":                  {nil, toNode},
		"power cut of node":          {nil, toNode},
		"power cut of all nodes":     {nil, toNode},
		"pause node":                 {toNode, elsewhere},
		"pause agentd":               {ofAgent, toNode},
		"partition":                  {toNode, func(t *testing.T, w *World) { talk(t, w, w.nodes[2].ip, w.nodes[0].ip) }},
		"isolate node":               {toNode, elsewhere},
		"one-way cut":                {toNode, elsewhere},
		"loss":                       {toNode, nil},
		"delay":                      {toNode, nil},
		"clock jump of node":         {func(_ *testing.T, w *World) { w.nodes[0].wallClock.matters() }, func(_ *testing.T, w *World) { w.nodes[1].wallClock.matters() }},
		"slow disk of node":          {store, func(t *testing.T, w *World) { storeOn(t, w, 1) }},
		"failing disk of node":       {store, func(t *testing.T, w *World) { storeOn(t, w, 1) }},
		"hanging disk of node":       {store, func(t *testing.T, w *World) { storeOn(t, w, 1) }},
		"cut an agent from a node":   {func(t *testing.T, w *World) { talk(t, w, w.agents[0].ip, w.nodes[1].ip) }, ofAgent},
		"isolate an agent":           {ofAgent, toNode},
		"broken connections of node": {nil, nil},
		"kill agentd":                {nil, ofAgent},
		"kill a supervisor":          {nil, ofAgent},
		journalPutBack:               {nil, ofAgent},
		"crash of agentd at a start": {nil, ofAgent},
		"reboot of an agent's host":  {nil, ofAgent},
		"power cut of an agent's host at a record": {nil, ofAgent},
		hostPowerCut:             {nil, ofAgent},
		"clock jump of an agent": {func(_ *testing.T, w *World) { w.agents[0].wallClock.matters() }, func(_ *testing.T, w *World) { w.nodes[0].wallClock.matters() }},
	} {
		t.Run(kind, func(t *testing.T) {
			if took(t, kind, nil) {
				t.Error("it took effect where nothing goes on")
			}
			if test.other != nil && took(t, kind, test.other) {
				t.Error("it took effect on what it does not meet")
			}
			if test.met != nil && !took(t, kind, test.met) {
				t.Error("it took no effect on what it meets")
			}
		})
	}
}

// took says whether the fault took effect while something went on.
func took(t *testing.T, kind string, meanwhile func(*testing.T, *World)) (effect bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1, t.TempDir(), rand.New(rand.NewPCG(1, 1)))
		defer w.stop()
		w.closed = true // nothing starts
		if strings.Contains(kind, "disk") {
			for _, n := range w.nodes {
				n.life = &nodeLife{began: time.Now().Add(-time.Hour)}
			}
		}
		if end := kindOf(kind).begin(w, Fault{Kind: kind, Who: 0, To: 1}); end != nil {
			if meanwhile != nil {
				meanwhile(t, w)
			}
			w.once(Fault{Kind: kind}, end())
		}
		effect = w.effects[kind] > 0
	})
	return effect
}

// talk has two hosts say something to each other, for a while.
func talk(t *testing.T, w *World, from, to string) {
	t.Helper()
	a, b := w.net.Attach(from), w.net.Attach(to)
	defer a.Detach()
	defer b.Detach()
	ln, err := b.Listen("tcp", to+":1")
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		w.lives.Go(func() {
			if c, err := ln.Accept(); err == nil {
				_ = c.Close()
			}
		})
	}
	ctx, cancel := context.WithTimeout(w.ctx, time.Minute)
	defer cancel()
	for range 100 {
		c, err := a.Dial(ctx, "tcp", to+":1")
		if err != nil {
			break
		}
		write(t, c, "x")
		_ = c.Close()
	}
	_ = ln.Close()
	w.lives.Wait()
}

// storeOn writes to the log of a node, whose disk does what it does.
func storeOn(t *testing.T, w *World, number int) {
	t.Helper()
	n := w.nodes[number]
	log := written{n.disk.Disk().Log, w.book, n, n.life}
	w.lives.Go(func() { _ = log.StoreLog(&raft.Log{Index: 1, Term: 1}) })
	time.Sleep(time.Minute)
}

func TestRecordNamesKindsOfLivesThatCount(t *testing.T) {
	var a tally
	a.add(&Outcome{Effects: map[string]int{"kill node": 2, "loss": 1}})
	a.add(&Outcome{Effects: map[string]int{"kill node": 3}, Red: []string{"I1"}})
	a.add(&Outcome{Effects: map[string]int{"loss": 1}, Void: "1 faults took effect"})
	l := a.line(7, time.Second)
	if l.Good != 1 || l.Void != 1 || l.Failed != 1 || !slices.Contains(l.Notes, "kinds=kill-node:5,loss:1") {
		t.Errorf("the record says %s", l)
	}
}
