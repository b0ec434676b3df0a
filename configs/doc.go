// Package configs is the configuration of all programs: one table of options, the
// layers a value may come from, and a file that may change while a program runs.
//
// # Layers
//
// Flags beat the environment (AGENTPLANE_CONFIG_ and the key), which beats the YAML
// file, which beats the defaults. [Load] reads them all, checks each value and how
// values fit together, and reports everything that is wrong at once, with layer,
// file, line, key, value and bound. [Config.Explain] says for each option which
// layer won and which weaker ones it hides. A key that no program knows is an error
// in every layer. A key of another program is an error in a file and a flag, but
// not in the environment, which several programs may share.
//
// The table (table*.go) is the only place where an option is defined: [Node],
// [Agent] and [Ctl] are filled from it, the files in examples/ are written from it,
// and tests hold all of them together. An option has its place in the table when a
// program reads it, not before.
//
// # What is refused, and why
//
//   - A file that everybody may write: whoever writes it commands a daemon that is
//     often root. A group may write.
//   - A secret in a file that others may read. token_file names a file instead.
//   - Keys given twice, aliases, merge keys, a second document, options without a
//     value, files above 1 MiB: each of them has made somebody believe in a setting
//     that was not there.
//   - Sizes in units of a thousand (MB), durations without a unit.
//
// # Reload
//
// A [Watcher] watches the directory of the file and the one its links lead to,
// waits until the file rests, compares fingerprints, loads everything anew and
// swaps atomically, or keeps the last good configuration and says so. Options that
// are not marked Reload keep their values until a restart and are reported. Run is
// the only life: it owns the fsnotify watcher and starts nothing that outlives it.
// Nothing is written to disk.
//
// # Weighed and dropped
//
// knadh/koanf has the layers but neither origins per key nor lines of a file, which
// are most of this package; it would add six packages and 0.4 MiB around a map, and
// the walk over YAML nodes would stay. validator/v10 checks structs after the place
// of a value is forgotten. A table of generated code: reflection over tags costs
// microseconds once per load, and a test holds structs and table together.
package configs
