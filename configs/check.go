package configs

import (
	"net"
	"strconv"
	"strings"

	"github.com/agentplane/agentplane/proto/identity"
	"github.com/agentplane/agentplane/proto/selector"
)

// checkListen takes HOST:PORT where the host may be missing.
func checkListen(text string) string {
	_, port, err := net.SplitHostPort(text)
	if err != nil {
		return "is not an address to listen on: write HOST:PORT or :PORT"
	}
	return checkPort(port, 0)
}

// checkAddress takes what others are to reach: HOST or HOST:PORT.
func checkAddress(text string) string {
	host, port, err := net.SplitHostPort(text)
	if err != nil || strings.ContainsAny(text, " /") {
		if strings.ContainsAny(text, " /[]") || strings.Count(text, ":") == 1 {
			return "is not an address: write HOST or HOST:PORT"
		}
		return "" // a host alone, an IPv6 address included
	}
	if host == "" {
		return "has no host that others could reach: write HOST or HOST:PORT"
	}
	return checkPort(port, 1)
}

// checkLabel takes the names of labels that the cluster takes.
func checkLabel(name string) string {
	if !selector.PlainName(name) {
		return "is no name of a label: it has letters, digits, _, -, . and / only, and ends with a letter, a digit or _"
	}
	return ""
}

// checkNode takes where a node listens: HOST:PORT.
func checkNode(text string) string {
	if identity.ValidateAddress(text) != nil || strings.ContainsAny(text, " /") {
		return "is not the address of a node: write HOST:PORT"
	}
	return ""
}

func checkPort(port string, least int) string {
	n, err := strconv.Atoi(port)
	if err != nil || n < least || n > 65535 {
		return "has no port between " + strconv.Itoa(least) + " and 65535"
	}
	return ""
}

// A rule ties options of one program together. It answers the key to blame and
// what is wrong, or nothing.
type rule struct {
	reader Program
	check  func(c *Config) (key, wrong string)
}

var rules = []rule{
	{ProgramNode, func(c *Config) (string, string) {
		if c.given("retry_join.addresses") && !c.given("retry_join.token_file") {
			return "retry_join.addresses", "needs retry_join.token_file, with which to join"
		}
		return "", ""
	}},
	{ProgramAgent, func(c *Config) (string, string) {
		if c.given("token") && c.given("token_file") {
			return "token", "and token_file are both set: keep one"
		}
		return "", ""
	}},
}

// checkRules reports values that are right by themselves but not together.
func (c *Config) checkRules() (problems []*LoadError) {
	for _, r := range rules {
		if r.reader != c.program {
			continue
		}
		if key, wrong := r.check(c); wrong != "" {
			problems = append(problems, &LoadError{c.settings[key].origin, key, wrong})
		}
	}
	return problems
}

// given reports whether the option has any content.
func (c *Config) given(key string) bool { return c.settings[key].text() != "" }
