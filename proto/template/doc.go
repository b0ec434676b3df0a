// Package template makes commands out of templates: programs with holes, which people fill
// who may run nothing else.
//
// # Promises
//
// A program comes out as a list of arguments and never passes through a shell, so that no
// value becomes more than a value. Each value is checked against the type, the pattern and
// the bounds of its parameter. A text without a pattern begins with no dash, which would
// make it an option of the program, and holds no control characters. What fills a hole is
// not looked at again.
//
// [Fill] and [Verify] agree: a node lets a command pass as one of a template only if
// filling it once more, with the arguments that the command names, gives the very argv and
// limits that it has. Secret values stand in no argument; programs find them in
// environment variables that the template names.
//
// The package is pure: no clock, no disk, no goroutine. Everything has a bound (the
// constants), patterns are RE2, whose time is linear.
//
// # Dropped
//
// text/template: its actions have loops, calls and comparisons, and "one argument" is no
// notion in it. A script as template: its parameters would have to be quoted for the
// language it is in. Defaults for secrets: they would be read by everybody.
package template
