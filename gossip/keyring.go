package gossip

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/memberlist"
)

// KeyBytes is the size of a gossip key (AES-256).
const KeyBytes = 32

const maxKeys = 8 // each costs a try per foreign packet

// KeyID returns the name under which a key may be shown and logged.
func KeyID(key []byte) string {
	sum := sha256.Sum256(append([]byte("agentplane gossip key\x00"), key...))
	return hex.EncodeToString(sum[:8])
}

// keyring changes the keys of a running memberlist. Rotation takes three steps,
// each on all nodes before the next: install, use, remove. A node that was down
// still gets in while the old key is installed.
type keyring struct {
	mu   sync.Mutex // one change at a time
	ring *memberlist.Keyring
}

func newKeyring(keys [][]byte) (*keyring, error) {
	if len(keys) == 0 {
		return nil, errors.New("no key: gossip is encrypted from the first packet")
	}
	if len(keys) > maxKeys {
		return nil, fmt.Errorf("%d keys are above the maximum %d", len(keys), maxKeys)
	}
	var own [][]byte
	for i, k := range keys {
		if len(k) != KeyBytes {
			return nil, fmt.Errorf("key %d has %d bytes, want %d", i, len(k), KeyBytes)
		}
		own = append(own, bytes.Clone(k))
	}
	ring, err := memberlist.NewKeyring(own, own[0])
	if err != nil {
		return nil, err
	}
	return &keyring{ring: ring}, nil
}

func (k *keyring) install(key []byte) error {
	if len(key) != KeyBytes {
		return fmt.Errorf("install gossip key: %d bytes, want %d", len(key), KeyBytes)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	keys := k.ring.GetKeys()
	if indexOf(keys, key) < 0 && len(keys) >= maxKeys {
		return fmt.Errorf("install gossip key %s: %d keys are installed, which is the maximum; remove one first", KeyID(key), len(keys))
	}
	return k.ring.AddKey(bytes.Clone(key))
}

func (k *keyring) use(key []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if indexOf(k.ring.GetKeys(), key) < 0 {
		return fmt.Errorf("use gossip key %s: not installed; install it on all nodes first", KeyID(key))
	}
	return k.ring.UseKey(bytes.Clone(key))
}

// remove takes key off the ring. Memberlist shifts the later keys down in the
// slice that its decrypting goroutines are reading, a data race; removing the
// last key shifts nothing. So the later keys go first and come back after. A
// packet under one of those that falls into the gap is lost, as packets may be.
func (k *keyring) remove(key []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	keys := slices.Clone(k.ring.GetKeys())
	i := indexOf(keys, key)
	if i < 0 {
		return nil
	}
	if i == 0 {
		return fmt.Errorf("remove gossip key %s: it is the one in use; use another first", KeyID(key))
	}
	for j := len(keys) - 1; j >= i; j-- {
		if err := k.ring.RemoveKey(keys[j]); err != nil {
			return err
		}
	}
	for _, later := range keys[i+1:] {
		if err := k.ring.AddKey(later); err != nil {
			return err
		}
	}
	return nil
}

func (k *keyring) ids() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var ids []string
	for _, key := range k.ring.GetKeys() {
		ids = append(ids, KeyID(key))
	}
	return ids
}

func indexOf(keys [][]byte, key []byte) int {
	return slices.IndexFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) })
}
