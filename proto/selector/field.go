package selector

import (
	"slices"
	"strconv"
)

type fieldKind byte

const (
	fieldID fieldKind = iota + 1
	fieldName
	fieldHealth
	fieldLabel
	fieldFact
)

// A field is what a term looks at.
type field struct {
	kind fieldKind
	name string // of the label or fact
}

const knownFields = "id, name, health, label.NAME and fact.NAME"

var fieldKinds = map[string]fieldKind{
	"id":     fieldID,
	"name":   fieldName,
	"health": fieldHealth,
	"label":  fieldLabel,
	"fact":   fieldFact,
}

// named reports whether the field has a name of its own, as labels have.
func (f field) named() bool { return f.kind == fieldLabel || f.kind == fieldFact }

// of returns the field's value of t; what is not there is "".
func (f field) of(t Target) (value string, ok bool) {
	switch f.kind {
	case fieldID:
		return t.ID(), true
	case fieldName:
		return t.Name(), true
	case fieldHealth:
		return t.Health(), true
	case fieldLabel:
		value, ok = t.Label(f.name)
	case fieldFact:
		value, ok = t.Fact(f.name)
	}
	if !ok {
		return "", false
	}
	return value, true
}

func (f field) String() string {
	switch f.kind {
	case fieldID:
		return "id"
	case fieldName:
		return "name"
	case fieldHealth:
		return "health"
	case fieldLabel:
		return "label" + suffix(f.name)
	default:
		return "fact" + suffix(f.name)
	}
}

func suffix(name string) string {
	if plainName(name) {
		return "." + name
	}
	return "[" + strconv.Quote(name) + "]"
}

// PlainName says whether a selector can write the name of a label plainly: letters,
// digits, "_", "-", "." and "/" of ASCII, the last of them a letter, a digit or "_".
func PlainName(name string) bool { return plainName(name) }

// plainName reports whether name may stand behind a dot; others need label["NAME"].
func plainName(name string) bool {
	for i := range len(name) {
		if !nameByte(name[i]) {
			return false
		}
	}
	return name != "" && wordByte(name[len(name)-1])
}

func nameByte(c byte) bool { return wordByte(c) || c == '-' || c == '.' || c == '/' }

func wordByte(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// HealthStates are the states that Target.Health may answer.
func HealthStates() []string { return slices.Clone(healthStates) }

var healthStates = []string{"ONLINE", "SUSPECT", "RECONNECTING", "DOWN", "FLAPPING", "LEFT", "QUARANTINED"}
