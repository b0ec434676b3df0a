package gossip

import (
	"fmt"
	"time"

	"github.com/hashicorp/memberlist"
)

// State is what gossip believes of a member.
type State uint8

// The states of a member.
const (
	StateAlive   State = 1 + iota // it answers
	StateSuspect                  // it did not answer, and has not yet spoken against the suspicion
	StateDead                     // it did not speak in time
	StateLeft                     // it announced its departure
)

func (s State) String() string {
	switch s {
	case StateAlive:
		return "alive"
	case StateSuspect:
		return "suspect"
	case StateDead:
		return "dead"
	case StateLeft:
		return "left"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Gone says that the member is dead or left.
func (s State) Gone() bool { return s == StateDead || s == StateLeft }

func stateOf(t memberlist.NodeStateType) State {
	switch t {
	case memberlist.StateAlive:
		return StateAlive
	case memberlist.StateSuspect:
		return StateSuspect
	case memberlist.StateLeft:
		return StateLeft
	}
	return StateDead
}

// Member is one node as this pool sees it. It is a copy and belongs to the
// reader.
type Member struct {
	ID    string    // node id
	Addr  string    // gossip address, host:port
	Meta  Meta      // the last that could be decoded; zero when none could
	State State     // alive, suspect, dead or left
	Since time.Time // when this pool saw the state begin, by the clock of this host
}

// validID says whether id can be a node id. It also keeps apart the observer,
// whose name no node can have, and ids that would break logs or addresses.
func validID(id string) bool {
	if len(id) == 0 || len(id) > 64 {
		return false
	}
	for _, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}
