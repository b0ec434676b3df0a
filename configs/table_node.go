package configs

var nodeOptions = []Option{
	// Who and where.
	{
		Key: "data_dir", Readers: ProgramNode, Kind: KindString, Default: "/var/lib/agentplane",
		Doc: "Where the node keeps its log, snapshots and keys. It must belong to the node alone (mode 0700).",
	},
	{
		Key: "name", Readers: ProgramNode, Kind: KindString,
		Doc: "The name that people see. Empty means the host name. It identifies nothing: the node's id does.",
	},
	{
		Key: "listen", Readers: ProgramNode, Kind: KindString, Default: ":7460", check: checkListen,
		Doc: "Where the one TLS port listens. Port 0 takes a free one; the bound address stands in addresses.json of the data directory.",
	},
	{
		Key: "advertise", Readers: ProgramNode, Kind: KindString, check: checkAddress,
		Doc: "The address at which all others reach the TLS port. Empty means one that is found from the interfaces.",
	},
	{
		Key: "gossip.listen", Readers: ProgramNode, Kind: KindString, Default: ":7461", check: checkListen,
		Doc: "Where gossip listens, on TCP and UDP.",
	},
	{
		Key: "gossip.advertise", Readers: ProgramNode, Kind: KindString, check: checkAddress,
		Doc: "The address at which other nodes reach gossip. Empty means the host of advertise.",
	},
	{
		Key: "retry_join.addresses", Readers: ProgramNode, Kind: KindList, Max: "64", check: checkNode,
		Doc: "Nodes of the cluster to join when this node belongs to none yet, tried again until one takes it.",
	},
	{
		Key: "retry_join.token_file", Readers: ProgramNode, Kind: KindString,
		Doc: "A file with the join token for retry_join.addresses.",
	},

	// Membership.
	{
		Key: "voters", Readers: ProgramNode, Kind: KindInt, Default: "5", Min: "1", Max: "9", odd: true,
		Doc: "Up to how many nodes vote. More nodes than that carry sessions and reads only.",
	},

	// Raft and the batcher.
	{
		Key: "raft.profile", Readers: ProgramNode, Kind: KindString, Default: "lan", Enum: []string{"lan", "lan-fast", "wan"},
		Doc: "The timers of raft: lan has heartbeat and election 250 ms, lan-fast 100 ms, wan 1 s. All nodes must have the same.",
	},
	{
		Key: "raft.log_store", Readers: ProgramNode, Kind: KindString, Default: "wal", Enum: []string{"wal", "bolt"},
		Doc: "Which store keeps the raft log. It cannot be changed for a data directory that has a log.",
	},
	{
		Key: "raft.snapshot_interval", Readers: ProgramNode, Kind: KindDuration, Default: "10s", Min: "100ms", Max: "1h",
		Doc: "How often the node looks whether a snapshot is due.",
	},
	{
		Key: "raft.snapshot_threshold", Readers: ProgramNode, Kind: KindInt, Default: "8192", Min: "16", Max: "1000000",
		Doc: "How many new log entries make a snapshot due, at least; a large state lets the log grow to 131072 between two. The log since the last snapshot is read whole at start: about 10 s a million entries.",
	},
	{
		Key: "raft.trailing_logs", Readers: ProgramNode, Kind: KindInt, Default: "10240", Min: "16", Max: "10000000",
		Doc: "How many entries stay in the log behind a snapshot, so that a node that was away for a while needs no snapshot.",
	},
	{
		Key: "batch.max_mutations", Readers: ProgramNode, Kind: KindInt, Default: "256", Min: "1", Max: "256",
		Doc: "How many mutations one log entry takes. The upper bound is part of the format.",
	},
	{
		Key: "batch.max_bytes", Readers: ProgramNode, Kind: KindBytes, Default: "512KiB", Min: "256KiB", Max: "4MiB",
		Doc: "How large one log entry may grow.",
	},
	{
		Key: "batch.max_in_flight", Readers: ProgramNode, Kind: KindInt, Default: "2", Min: "1", Max: "16",
		Doc: "How many entries may be on their way at once. More make the batches smaller, and the whole slower.",
	},
	{
		Key: "hold_without_leader", Readers: ProgramNode, Kind: KindDuration, Default: "7s", Max: "1m",
		Doc: "How long a request waits for a leader, within its own deadline.",
	},
	{
		Key: "feed.max_changes", Readers: ProgramNode, Kind: KindInt, Default: "65536", Min: "256", Max: "4194304",
		Doc: "How many changes the change feed keeps for readers that resume. All nodes must have the same.",
	},
	{
		Key: "feed.max_bytes", Readers: ProgramNode, Kind: KindBytes, Default: "64MiB", Min: "1MiB", Max: "4GiB",
		Doc: "How large the change feed may grow. All nodes must have the same.",
	},

	// Agents.
	{
		Key: "agent.heartbeat_interval", Readers: ProgramNode, Kind: KindDuration, Default: "3s", Min: "100ms", Max: "5m",
		Doc: "How often an agent beats. It holds for sessions that begin after a change.",
	},
	{
		Key: "agent.heartbeat_misses", Readers: ProgramNode, Kind: KindInt, Default: "3", Min: "1", Max: "100",
		Doc: "How many beats in a row may be missing before an agent is called RECONNECTING.",
	},
	{
		Key: "agent.node_death_grace", Readers: ProgramNode, Kind: KindDuration, Default: "30s", Min: "100ms", Max: "1h",
		Doc: "How long the agents of a node that died may take to reach another before they are DOWN.",
	},
	{
		Key: "agent.reboot_grace", Readers: ProgramNode, Kind: KindDuration, Default: "5m", Min: "100ms", Max: "1d",
		Doc: "How long an agent that announced a reboot may be away before it is DOWN.",
	},
	{
		Key: "agent.leaderless_after", Readers: ProgramNode, Kind: KindDuration, Default: "10s", Min: "1s", Max: "10m",
		Doc: "How long a node may be without contact to a leader before it sends its agents to other nodes. It must be longer than an election.",
	},
	{
		Key: "agent.brake_count", Readers: ProgramNode, Kind: KindInt, Default: "10", Min: "1", Max: "1000000",
		Doc: "Up to this many agents may go DOWN within one window without the mass-failure brake.",
	},
	{
		Key: "agent.brake_percent", Readers: ProgramNode, Kind: KindInt, Default: "15", Min: "1", Max: "100",
		Doc: "Up to this part of the fleet may go DOWN within one window without the mass-failure brake, when it is more than agent.brake_count.",
	},
	{
		Key: "agent.queue_max", Readers: ProgramNode, Kind: KindInt, Default: "4096", Min: "1", Max: "10000000",
		Doc: "How many invocations may wait for one agent. Those above are SKIPPED(queue_full).",
	},
	{
		Key: "admission.sessions_per_second", Readers: ProgramNode, Kind: KindInt, Default: "500", Min: "1", Max: "100000",
		Doc: "How many new agent sessions this node takes in a second. Others are told when to come again.",
	},

	// Commands.
	{
		Key: "commands.lost_after", Readers: ProgramNode, Kind: KindDuration, Default: "15m", Min: "1s", Max: "30d",
		Doc: "The least time without a session after which a claimed or running attempt is LOST. It is never shorter than the rest of the run timeout.",
	},
	{
		Key: "commands.retain", Readers: ProgramNode, Kind: KindDuration, Default: "30d", Min: "1m", Max: "3650d",
		Doc: "How long a command that has ended is kept.",
	},
	{
		Key: "commands.retain_count", Readers: ProgramNode, Kind: KindInt, Default: "100000", Min: "100", Max: "10000000",
		Doc: "How many commands that have ended are kept.",
	},
	{
		Key: "commands.rate_per_operator", Readers: ProgramNode, Kind: KindInt, Default: "0", Min: "0", Max: "100000",
		Doc: "How many commands one operator may submit in a second, each of a batch counted; 0 is no bound. The node that leads counts.",
	},
	{
		Key: "commands.rate_burst", Readers: ProgramNode, Kind: KindInt, Default: "100", Min: "1", Max: "1000000",
		Doc: "How many commands one operator may submit at once before commands.rate_per_operator bounds them.",
	},

	// Tokens.
	{
		Key: "tokens.retain", Readers: ProgramNode, Kind: KindDuration, Default: "30d", Min: "1h", Max: "3650d",
		Doc: "How long a token is kept that has expired, was used up or revoked. For so long a newcomer may ask again that lost the answer.",
	},
	{
		Key: "tokens.retain_count", Readers: ProgramNode, Kind: KindInt, Default: "10000", Min: "100", Max: "50000",
		Doc: "How many of those tokens are kept.",
	},

	// Output.
	{
		Key: "output.store_bytes", Readers: ProgramNode, Kind: KindBytes, Default: "10GiB", Min: "16MiB", Max: "16TiB",
		Doc: "How much output of programs this node keeps. When it is full, the oldest goes first.",
	},
	{
		Key: "output.attempt_bytes", Readers: ProgramNode, Kind: KindBytes, Default: "64MiB", Min: "64KiB", Max: "1GiB",
		Doc: "How much output of one attempt this node keeps: its begin, and the last half MiB of it; what lies between is counted only.",
	},
	{
		Key: "output.reserve_bytes", Readers: ProgramNode, Kind: KindBytes, Default: "1GiB", Max: "16TiB",
		Doc: "The free space below which this node keeps no more output, so that the log has room.",
	},

	// Files.
	{
		Key: "files.store_bytes", Readers: ProgramNode, Kind: KindBytes, Default: "1GiB", Min: "16MiB", Max: "1TiB",
		Doc: "How much the files and inputs that commands bring along may have together. What no command needs any more goes first; what is needed is never thrown away, and nothing more is taken. All nodes should have the same.",
	},
	{
		Key: "files.store_count", Readers: ProgramNode, Kind: KindInt, Default: "4096", Min: "17", Max: "100000",
		Doc: "How many such contents there may be.",
	},
	{
		Key: "files.keep", Readers: ProgramNode, Kind: KindDuration, Default: "1d", Min: "1m", Max: "3650d",
		Doc: "How long such a content is kept after the last command that names it has ended, so that the command can be run again.",
	},

	// Schedules.
	{
		Key: "schedules.missed_after", Readers: ProgramNode, Kind: KindDuration, Default: "1m", Min: "5s", Max: "1d",
		Doc: "How late a slot still fires as if it were in time. Later ones were missed, and the schedule says what becomes of those.",
	},
	{
		Key: "schedules.retain", Readers: ProgramNode, Kind: KindDuration, Default: "30d", Min: "1m", Max: "3650d",
		Doc: "How long a schedule is kept that has ended.",
	},
	{
		Key: "schedules.retain_count", Readers: ProgramNode, Kind: KindInt, Default: "500", Min: "1", Max: "900",
		Doc: "How many schedules that have ended are kept.",
	},

	// Limits.
	{
		Key: "clock.max_distance_leading", Readers: ProgramNode, Kind: KindDuration, Default: "30s", Min: "1s", Max: "1h",
		Doc: "How far a node's clock may be from the median of the voters before it gives up leadership.",
	},
	{
		Key: "limits.message_bytes", Readers: ProgramNode, Kind: KindBytes, Default: "1MiB", Min: "512KiB", Max: "16MiB",
		Doc: "How large one gRPC message may be. All nodes must have the same.",
	},
}
