package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/memberlist"
)

// Meta is what a node tells all others about itself. It spreads with the news
// that the node is alive. The node's id is the member's name and is not repeated
// here.
//
// On the wire it is one byte of format, then fields: tag, length, value, with
// tag and length as uvarints. A field of zero value is left out. Decoders skip
// tags that they do not know, so that a newer node may say more.
type Meta struct {
	Name         string // for people; not unique
	APIAddr      string // host:port for agents, operators, nodes and raft
	Version      string // of the program
	FeatureLevel uint32 // the highest that the program supports
	Incarnation  uint32 // number of the cluster's incarnation
	Draining     bool   // agents should go elsewhere
}

const metaFormat = 1

const (
	tagName uint64 = 1 + iota
	tagAPIAddr
	tagVersion
	tagFeatureLevel
	tagIncarnation
	tagDraining
)

// maxMetaText bounds each text, so that all fields at their bounds fit into the
// 512 bytes that memberlist carries.
const maxMetaText = 128

// MarshalBinary encodes m, or says which field is too long or not printable.
func (m Meta) MarshalBinary() ([]byte, error) {
	b := []byte{metaFormat}
	for _, f := range []struct {
		tag         uint64
		name, value string
	}{{tagName, "name", m.Name}, {tagAPIAddr, "API address", m.APIAddr}, {tagVersion, "version", m.Version}} {
		if err := checkMetaText(f.name, f.value); err != nil {
			return nil, err
		}
		b = appendField(b, f.tag, []byte(f.value))
	}
	b = appendNumber(b, tagFeatureLevel, uint64(m.FeatureLevel))
	b = appendNumber(b, tagIncarnation, uint64(m.Incarnation))
	if m.Draining {
		b = appendNumber(b, tagDraining, 1)
	}
	return b, nil
}

// UnmarshalBinary decodes b into m, which is unchanged after an error. Anybody
// with a key may have written b.
func (m *Meta) UnmarshalBinary(b []byte) error {
	if len(b) > memberlist.MetaMaxSize {
		return fmt.Errorf("gossip metadata: %d bytes are above the maximum %d", len(b), memberlist.MetaMaxSize)
	}
	if len(b) == 0 {
		return errors.New("gossip metadata: empty")
	}
	if b[0] != metaFormat {
		return fmt.Errorf("gossip metadata: format %d is not known, want %d", b[0], metaFormat)
	}
	var out Meta
	var last uint64
	for rest := b[1:]; len(rest) > 0; {
		tag, value, tail, err := takeField(rest)
		if err != nil {
			return err
		}
		if tag <= last { // one order, so that equal metadata has equal bytes
			return fmt.Errorf("gossip metadata: field %d after field %d", tag, last)
		}
		if err := out.set(tag, value); err != nil {
			return err
		}
		last, rest = tag, tail
	}
	*m = out
	return nil
}

func (m *Meta) set(tag uint64, value []byte) error {
	switch tag {
	case tagName:
		m.Name = string(value)
		return checkMetaText("name", m.Name)
	case tagAPIAddr:
		m.APIAddr = string(value)
		return checkMetaText("API address", m.APIAddr)
	case tagVersion:
		m.Version = string(value)
		return checkMetaText("version", m.Version)
	case tagFeatureLevel, tagIncarnation, tagDraining:
		n, size := binary.Uvarint(value)
		if size != len(value) || n > 1<<32-1 {
			return fmt.Errorf("gossip metadata: field %d is not a number of 32 bits", tag)
		}
		switch tag {
		case tagFeatureLevel:
			m.FeatureLevel = uint32(n)
		case tagIncarnation:
			m.Incarnation = uint32(n)
		default:
			m.Draining = n != 0
		}
	}
	return nil // a tag of a newer node
}

func appendField(b []byte, tag uint64, value []byte) []byte {
	if len(value) == 0 {
		return b
	}
	b = binary.AppendUvarint(b, tag)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

func appendNumber(b []byte, tag, n uint64) []byte {
	if n == 0 {
		return b
	}
	return appendField(b, tag, binary.AppendUvarint(nil, n))
}

func takeField(b []byte) (tag uint64, value, rest []byte, err error) {
	tag, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, nil, errors.New("gossip metadata: ends inside a tag")
	}
	b = b[n:]
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return 0, nil, nil, fmt.Errorf("gossip metadata: ends inside field %d", tag)
	}
	b = b[n:]
	return tag, b[:size], b[size:], nil
}

// checkMetaText keeps out what could damage a terminal or a log.
func checkMetaText(field, s string) error {
	if len(s) > maxMetaText {
		return fmt.Errorf("gossip metadata: %s of %d bytes is above the maximum %d", field, len(s), maxMetaText)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("gossip metadata: %s %q is not UTF-8", field, s)
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("gossip metadata: %s %q has characters that cannot be printed", field, s)
		}
	}
	return nil
}
