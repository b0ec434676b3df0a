package identity

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Kind says what an identity is.
type Kind string

// The kinds there are. The zero value is none of them.
const (
	KindNode     Kind = "node"
	KindAgent    Kind = "agent"
	KindOperator Kind = "operator"
)

// The longest names accepted.
const (
	MaxClusterBytes = 64
	MaxNameBytes    = 128
)

const uriScheme = "spiffe://"

// caSegment stands where the kind stands in the name of a node's CA. It is no
// Kind, so that a CA certificate never passes for a peer.
const caSegment = "ca"

// ID names one member of one cluster. The zero value names nobody.
type ID struct {
	Cluster string
	Kind    Kind
	Name    string
}

// ParseID reads the form that String writes and nothing else: no escapes, no
// port, no query, no trailing slash. ParseID(s).String() is s.
func ParseID(s string) (ID, error) {
	rest, ok := strings.CutPrefix(s, uriScheme)
	if !ok {
		return ID{}, fmt.Errorf("parse identity %.200q: it does not begin with %q", s, uriScheme)
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 3 {
		return ID{}, fmt.Errorf("parse identity %.200q: want %sCLUSTER/KIND/NAME", s, uriScheme)
	}
	id := ID{Cluster: parts[0], Kind: Kind(parts[1]), Name: parts[2]}
	if err := id.Validate(); err != nil {
		return ID{}, fmt.Errorf("parse identity %.200q: %w", s, err)
	}
	return id, nil
}

// String returns the URI form. It is meaningful only for valid IDs.
func (id ID) String() string {
	return uriScheme + id.Cluster + "/" + string(id.Kind) + "/" + id.Name
}

// Validate says what is wrong with the ID.
func (id ID) Validate() error {
	if err := ValidateCluster(id.Cluster); err != nil {
		return err
	}
	switch id.Kind {
	case KindNode, KindAgent, KindOperator:
	default:
		return fmt.Errorf("kind %.40q is none of node, agent, operator", id.Kind)
	}
	return ValidateName(id.Name)
}

// ValidateCluster says what is wrong with a cluster id: lower-case letters,
// digits, '.', '-' and '_', in labels that are not empty, and not an IP address
// (name constraints of X.509 cannot hold one).
func ValidateCluster(s string) error {
	switch {
	case s == "":
		return errors.New("cluster id is empty")
	case len(s) > MaxClusterBytes:
		return fmt.Errorf("cluster id of %d bytes is above the maximum %d", len(s), MaxClusterBytes)
	}
	for i := range len(s) {
		if c := s[i]; !lowerOrDigit(c) && c != '.' && c != '-' && c != '_' {
			return fmt.Errorf("cluster id %q has the character %q; use lower-case letters, digits, '.', '-' and '_'", s, c)
		}
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" {
			return fmt.Errorf("cluster id %q has an empty label", s)
		}
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return fmt.Errorf("cluster id %q is an IP address", s)
	}
	return nil
}

// ValidateName says what is wrong with the name of a node, agent or operator:
// letters, digits, '.', '-' and '_', but neither "." nor "..".
func ValidateName(s string) error {
	switch {
	case s == "":
		return errors.New("name is empty")
	case len(s) > MaxNameBytes:
		return fmt.Errorf("name of %d bytes is above the maximum %d", len(s), MaxNameBytes)
	case s == "." || s == "..":
		return fmt.Errorf("name %q is a path, not a name", s)
	}
	for i := range len(s) {
		c := s[i]
		if !lowerOrDigit(c) && (c < 'A' || c > 'Z') && c != '.' && c != '-' && c != '_' {
			return fmt.Errorf("name %q has the character %q; use letters, digits, '.', '-' and '_'", s, c)
		}
	}
	return nil
}

// CAName returns the name that the CA certificate of a node carries.
func CAName(cluster, nodeID string) string {
	return uriScheme + cluster + "/" + caSegment + "/" + nodeID
}

func lowerOrDigit(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
}
