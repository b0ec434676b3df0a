package configs

import "slices"

// table holds every option of every program. An option that two programs know
// under one key with different defaults stands here twice. The typed structs
// follow this table; a test compares them.
var table = slices.Concat(sharedOptions, nodeOptions, agentOptions, ctlOptions)

var sharedOptions = []Option{
	{
		Key: "log.level", Readers: ProgramNode | ProgramAgent, Kind: KindString, Default: "info",
		Enum: []string{"debug", "info", "warn", "error"}, Reload: true,
		Doc: "The least level that is logged.",
	},
	{
		Key: "log.format", Readers: ProgramNode | ProgramAgent, Kind: KindString, Default: "text",
		Enum: []string{"text", "json"},
		Doc:  "How a log line is written.",
	},
}

var ctlOptions = []Option{
	{
		Key: "addr", Readers: ProgramCtl, Kind: KindList, Max: "64", check: checkAddress,
		Doc: "Nodes to speak to, instead of those of the context.",
	},
	{
		Key: "context", Readers: ProgramCtl, Kind: KindString,
		Doc: "The context to use, instead of the current one.",
	},
	{
		Key: "output", Readers: ProgramCtl, Kind: KindString, Default: "table", short: "o",
		Enum: []string{"table", "wide", "json", "jsonl", "yaml"},
		Doc:  "How results are printed.",
	},
	{
		Key: "request_timeout", Readers: ProgramCtl, Kind: KindDuration, Default: "30s", Min: "100ms", Max: "1h",
		Doc: "How long one request may take, retries included.",
	},
	{
		Key: "stale", Readers: ProgramCtl, Kind: KindBool, Default: "false",
		Doc: "Read from the state of the node that is asked, which may be old, and show its age.",
	},
	{
		Key: "no_color", Readers: ProgramCtl, Kind: KindBool, Default: "false",
		Doc: "Print without colours also on a terminal.",
	},
}
