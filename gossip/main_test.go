package gossip

import (
	"testing"

	"go.uber.org/goleak"
)

// Nothing is ignored: what memberlist leaves behind ends within four probe
// intervals of Close, and the tests wait that long (see settle).
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
