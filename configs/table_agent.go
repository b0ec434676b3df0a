package configs

var agentOptions = []Option{
	{
		Key: "data_dir", Readers: ProgramAgent, Kind: KindString, Default: "/var/lib/agentd",
		Doc: "Where the agent keeps its key, its journal and the output of what it ran. It must belong to the agent alone (mode 0700).",
	},
	{
		Key: "name", Readers: ProgramAgent, Kind: KindString,
		Doc: "The name that people see, taken at enrolment. Empty means the host name.",
	},
	{
		Key: "servers", Readers: ProgramAgent, Kind: KindList, Max: "64", check: checkNode,
		Doc: "Nodes to enrol with and to fall back to. Once enrolled the agent learns the others by itself.",
	},
	{
		Key: "token", Readers: ProgramAgent, Kind: KindString, Secret: true,
		Doc: "The join token for the first start. In a file it asks that nobody else can read the file; prefer token_file.",
	},
	{
		Key: "token_file", Readers: ProgramAgent, Kind: KindString,
		Doc: "A file with the join token for the first start.",
	},
	{
		Key: "labels", Readers: ProgramAgent, Kind: KindMap, Max: "64", flag: "label", check: checkLabel,
		Doc: "Labels asked for at enrolment. One that the token gives wins; later changes are made by operators.",
	},
	{
		Key: "slots", Readers: ProgramAgent, Kind: KindInt, Default: "4", Min: "1", Max: "1024",
		Doc: "How many attempts run at once.",
	},
	{
		Key: "run.timeout_default", Readers: ProgramAgent, Kind: KindDuration, Default: "10m", Min: "1s", Max: "30d", Reload: true,
		Doc: "How long a program may run when its command does not say.",
	},
	{
		Key: "run.kill_grace", Readers: ProgramAgent, Kind: KindDuration, Default: "10s", Max: "1h", Reload: true,
		Doc: "How long a program may take to end after TERM before it is killed.",
	},
	{
		Key: "run.reboot_wait", Readers: ProgramAgent, Kind: KindDuration, Default: "10m", Min: "10s", Max: "15m",
		Doc: "How long a reboot that a program has announced is waited for, from its end until the host goes down.",
	},
	{
		Key: "output.max_bytes", Readers: ProgramAgent, Kind: KindBytes, Default: "10MiB", Min: "64KiB", Max: "1GiB", Reload: true,
		Doc: "How much output of one attempt is kept on the host: its head, and the last of it.",
	},
	{
		Key: "output.raft_bytes", Readers: ProgramAgent, Kind: KindBytes, Default: "8KiB", Min: "0", Max: "8KiB", Reload: true,
		Doc: "How much head and tail go to the nodes with the result.",
	},
	{
		Key: "files.cache_bytes", Readers: ProgramAgent, Kind: KindBytes, Default: "512MiB", Min: "0", Max: "1TiB", Reload: true,
		Doc: "How much of the files and inputs that commands bring along is kept on the host, in case another command brings the same.",
	},
	{
		Key: "journal.retention", Readers: ProgramAgent, Kind: KindDuration, Default: "30d", Min: "1d", Max: "3650d", Reload: true,
		Doc: "How long the agent remembers what it ran.",
	},
	{
		Key: "facts.interval", Readers: ProgramAgent, Kind: KindDuration, Default: "5m", Min: "1s", Max: "1d", Reload: true,
		Doc: "How often facts are collected again. They are sent when they changed.",
	},
}
