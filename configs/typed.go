package configs

import (
	"fmt"
	"reflect"
	"time"
)

// Node is what agentplane reads. Each field's tag is the option's key below the
// key of the struct around it; the table says what the option means.
type Node struct {
	DataDir   string `key:"data_dir"`
	Name      string `key:"name"`
	Listen    string `key:"listen"`
	Advertise string `key:"advertise"`
	Gossip    struct {
		Listen    string `key:"listen"`
		Advertise string `key:"advertise"`
	} `key:"gossip"`
	RetryJoin struct {
		Addresses []string `key:"addresses"`
		TokenFile string   `key:"token_file"`
	} `key:"retry_join"`

	Voters int `key:"voters"`

	Raft struct {
		Profile           string        `key:"profile"`   // lan, lan-fast, wan
		LogStore          string        `key:"log_store"` // wal, bolt
		SnapshotInterval  time.Duration `key:"snapshot_interval"`
		SnapshotThreshold int           `key:"snapshot_threshold"`
		TrailingLogs      int           `key:"trailing_logs"`
	} `key:"raft"`
	Batch struct {
		MaxMutations int   `key:"max_mutations"`
		MaxBytes     int64 `key:"max_bytes"`
		MaxInFlight  int   `key:"max_in_flight"`
	} `key:"batch"`
	HoldWithoutLeader time.Duration `key:"hold_without_leader"`
	Feed              struct {
		MaxChanges int   `key:"max_changes"`
		MaxBytes   int64 `key:"max_bytes"`
	} `key:"feed"`

	Agent struct {
		HeartbeatInterval time.Duration `key:"heartbeat_interval"`
		HeartbeatMisses   int           `key:"heartbeat_misses"`
		NodeDeathGrace    time.Duration `key:"node_death_grace"`
		RebootGrace       time.Duration `key:"reboot_grace"`
		LeaderlessAfter   time.Duration `key:"leaderless_after"`
		BrakeCount        int           `key:"brake_count"`
		BrakePercent      int           `key:"brake_percent"`
		QueueMax          int           `key:"queue_max"`
	} `key:"agent"`
	Admission struct {
		SessionsPerSecond int `key:"sessions_per_second"`
	} `key:"admission"`

	Commands struct {
		LostAfter       time.Duration `key:"lost_after"`
		Retain          time.Duration `key:"retain"`
		RetainCount     int           `key:"retain_count"`
		RatePerOperator int           `key:"rate_per_operator"`
		RateBurst       int           `key:"rate_burst"`
	} `key:"commands"`
	Tokens struct {
		Retain      time.Duration `key:"retain"`
		RetainCount int           `key:"retain_count"`
	} `key:"tokens"`
	Output struct {
		StoreBytes   int64 `key:"store_bytes"`
		AttemptBytes int64 `key:"attempt_bytes"`
		ReserveBytes int64 `key:"reserve_bytes"`
	} `key:"output"`
	Files struct {
		StoreBytes int64         `key:"store_bytes"`
		StoreCount int           `key:"store_count"`
		Keep       time.Duration `key:"keep"`
	} `key:"files"`
	Schedules struct {
		MissedAfter time.Duration `key:"missed_after"`
		Retain      time.Duration `key:"retain"`
		RetainCount int           `key:"retain_count"`
	} `key:"schedules"`

	Clock struct {
		MaxDistanceLeading time.Duration `key:"max_distance_leading"`
	} `key:"clock"`
	Limits struct {
		MessageBytes int64 `key:"message_bytes"`
	} `key:"limits"`
	Log Log `key:"log"`
}

// Agent is what agentd reads.
type Agent struct {
	DataDir   string            `key:"data_dir"`
	Name      string            `key:"name"`
	Servers   []string          `key:"servers"`
	Token     string            `key:"token"`
	TokenFile string            `key:"token_file"`
	Labels    map[string]string `key:"labels"`
	Slots     int               `key:"slots"`
	Run       struct {
		TimeoutDefault time.Duration `key:"timeout_default"`
		KillGrace      time.Duration `key:"kill_grace"`
		RebootWait     time.Duration `key:"reboot_wait"`
	} `key:"run"`
	Output struct {
		MaxBytes  int64 `key:"max_bytes"`
		RaftBytes int64 `key:"raft_bytes"`
	} `key:"output"`
	Files struct {
		CacheBytes int64 `key:"cache_bytes"`
	} `key:"files"`
	Journal struct {
		Retention time.Duration `key:"retention"`
	} `key:"journal"`
	Facts struct {
		Interval time.Duration `key:"interval"`
	} `key:"facts"`
	Log Log `key:"log"`
}

// Ctl is what agentctl reads, from flags and the environment.
type Ctl struct {
	Addr           []string      `key:"addr"`
	Context        string        `key:"context"`
	Output         string        `key:"output"` // table, wide, json, jsonl, yaml
	RequestTimeout time.Duration `key:"request_timeout"`
	Stale          bool          `key:"stale"`
	NoColor        bool          `key:"no_color"`
}

// Log is how a daemon logs.
type Log struct {
	Level  string `key:"level"`  // debug, info, warn, error
	Format string `key:"format"` // text, json
}

// Node returns the values for agentplane. It panics for another program's Config.
func (c *Config) Node() Node { return typed[Node](c, ProgramNode) }

// Agent returns the values for agentd. It panics for another program's Config.
func (c *Config) Agent() Agent { return typed[Agent](c, ProgramAgent) }

// Ctl returns the values for agentctl. It panics for another program's Config.
func (c *Config) Ctl() Ctl { return typed[Ctl](c, ProgramCtl) }

// typed copies the values into a fresh T, lists and maps included.
func typed[T any](c *Config, p Program) T {
	if c.program != p {
		panic(fmt.Sprintf("configs: the configuration of %s was asked for the values of %s", c.program, p))
	}
	var t T
	eachField(reflect.ValueOf(&t).Elem(), "", func(key string, field reflect.Value) {
		value := reflect.ValueOf(c.settings[key].value)
		switch {
		case field.Kind() == reflect.Slice:
			field.Set(reflect.AppendSlice(reflect.Zero(field.Type()), value))
		case field.Kind() == reflect.Map:
			field.Set(reflect.MakeMap(field.Type()))
			for _, k := range value.MapKeys() {
				field.SetMapIndex(k, value.MapIndex(k))
			}
		default:
			field.Set(value)
		}
	})
	return t
}

// eachField calls visit for every field of v that is an option, nested ones too.
func eachField(v reflect.Value, prefix string, visit func(key string, field reflect.Value)) {
	for i := range v.NumField() {
		key := prefix + v.Type().Field(i).Tag.Get("key")
		if v.Field(i).Kind() == reflect.Struct {
			eachField(v.Field(i), key+".", visit)
		} else {
			visit(key, v.Field(i))
		}
	}
}
