package wave

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/google/uuid"
)

// ProbeTimeout is how long a probe may run that says nothing else.
const ProbeTimeout = time.Minute

// ProbeID is the id of the command that probes a wave of the command: a UUIDv7 as old as
// the command's own, whose other bits follow from both. It is empty when the command's
// id is none.
func ProbeID(command string, wave uint32) string {
	id, err := uuid.Parse(command)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(binary.BigEndian.AppendUint32(append([]byte("agentplane probe\x00"), id[:]...), wave))
	copy(id[6:], sum[:])
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id.String()
}
