package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// object is what JSON and YAML show: the fields of a message in the order of the
// proto, under its names in lowerCamelCase. Every field is always there, so that
// a script need not ask; what is not set is null, false, zero or empty. Unlike
// protojson's, times are RFC 3339, enums have their short names, and 64-bit numbers
// are numbers, but for epochs and fences: from the second incarnation on these are
// above 2^53, where jq and JavaScript lose bits, and so they are strings.
type object []member

type member struct {
	name  string
	value any
}

// MarshalJSON keeps the order.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := marshalJSON(m.name)
		if err != nil {
			return nil, err
		}
		value, err := marshalJSON(m.value)
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// marshalJSON leaves <, > and & as they are: nobody reads this in a browser.
func marshalJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// MarshalYAML keeps the order.
func (o object) MarshalYAML() (any, error) {
	node := &yaml.Node{Kind: yaml.MappingNode}
	for _, m := range o {
		var name, value yaml.Node
		if err := name.Encode(m.name); err != nil {
			return nil, err
		}
		if err := value.Encode(m.value); err != nil {
			return nil, err
		}
		node.Content = append(node.Content, &name, &value)
	}
	return node, nil
}

// with returns the object with members in front.
func (o object) with(front ...member) object { return append(slices.Clone(front), o...) }

// times are the fields that hold Unix nanoseconds.
var times = map[protoreflect.Name]bool{
	"now": true, "at": true, "since": true, "not_before": true, "not_after": true,
	"created_at": true, "expires_at": true, "revoked_at": true, "enrolled_at": true,
	"submitted_at": true, "finished_at": true, "started_at": true, "ended_at": true, "canceled_at": true,
	"until": true, "changed_at": true, "paused_at": true, "next_at": true, "waiting_at": true, "slot": true, "slots": true, "starts_at": true,
	"released_at": true, "settled_at": true, "soaked_at": true, "confirmed_at": true,
}

// wides are the fields that hold an epoch, a fence or the number of a stop.
var wides = map[protoreflect.Name]bool{"fence": true, "session_epoch": true, "leader_epoch": true, "number": true}

// texts are the fields of bytes that hold what a program printed.
var texts = map[protoreflect.Name]bool{"head": true, "tail": true}

func toObject(m proto.Message) object {
	r := m.ProtoReflect()
	var o object
	fields := r.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		o = append(o, member{fd.JSONName(), fieldValue(fd, r.Get(fd), r.Has(fd))})
	}
	if i, ok := m.(*agentplanev1.Invocation); ok {
		o = invocationObject(i, o)
	}
	return o
}

// invocationObject adds the output as text, and hides an exit code that there
// never was.
func invocationObject(i *agentplanev1.Invocation, o object) object {
	at := slices.IndexFunc(o, func(m member) bool { return m.name == "exitCode" })
	if _, exited := exitCode(i); !exited {
		o[at].value = nil
	}
	text := strings.ToValidUTF8(shownText(i.Stdout)+shownText(i.Stderr), "\uFFFD")
	return slices.Insert(o, at+1, member{"output", text})
}

// exitCode returns with what the program of an invocation exited, if it did.
func exitCode(i *agentplanev1.Invocation) (int32, bool) {
	switch i.State {
	case agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED:
		return i.ExitCode, true
	case agentplanev1.AttemptState_ATTEMPT_STATE_FAILED:
		return i.ExitCode, i.Signal == 0 && i.ExitCode != 0
	default:
		return 0, false
	}
}

func fieldValue(fd protoreflect.FieldDescriptor, v protoreflect.Value, set bool) any {
	switch {
	case fd.IsMap():
		return mapObject(fd.MapValue(), v.Map())
	case fd.IsList() && fd.Kind() == protoreflect.MessageKind && fd.Message().FullName() == "agentplane.v1.Label":
		return labelsObject(v.List())
	case fd.IsList():
		list := make([]any, v.List().Len())
		for i := range list {
			list[i] = single(fd, v.List().Get(i))
		}
		return list
	case fd.HasPresence() && !set:
		return nil
	default:
		return single(fd, v)
	}
}

func mapObject(fd protoreflect.FieldDescriptor, m protoreflect.Map) object {
	values := map[string]any{}
	m.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		values[k.String()] = single(fd, v)
		return true
	})
	return sorted(values)
}

func labelsObject(l protoreflect.List) object {
	values := map[string]any{}
	for i := range l.Len() {
		if label, ok := l.Get(i).Message().Interface().(*agentplanev1.Label); ok {
			values[label.Name] = label.Value
		}
	}
	return sorted(values)
}

func sorted(values map[string]any) object {
	o := object{}
	for _, k := range slices.Sorted(maps.Keys(values)) {
		o = append(o, member{k, values[k]})
	}
	return o
}

func single(fd protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		return toObject(v.Message().Interface())
	case protoreflect.EnumKind:
		return shortEnum(fd.Enum(), v.Enum())
	case protoreflect.BytesKind:
		switch {
		case texts[fd.Name()]:
			return strings.ToValidUTF8(string(v.Bytes()), "\uFFFD")
		case fd.FullName() == "agentplane.v1.Incarnation.id", fd.FullName() == "agentplane.v1.OutputTotal.sha256":
			return hex.EncodeToString(v.Bytes())
		default:
			return base64.StdEncoding.EncodeToString(v.Bytes())
		}
	case protoreflect.Uint64Kind:
		if wides[fd.Name()] {
			return strconv.FormatUint(v.Uint(), 10)
		}
		return v.Uint()
	case protoreflect.Int64Kind:
		if times[fd.Name()] {
			return timeValue(v.Int())
		}
		return v.Int()
	default:
		return v.Interface()
	}
}

func timeValue(ns int64) any {
	if ns == 0 {
		return nil
	}
	return time.Unix(0, ns).UTC().Format(time.RFC3339Nano)
}

// shortEnum returns SUCCEEDED for ATTEMPT_STATE_SUCCEEDED.
func shortEnum(d protoreflect.EnumDescriptor, n protoreflect.EnumNumber) string {
	v := d.Values().ByNumber(n)
	if v == nil {
		return fmt.Sprint(n) // a newer cluster's
	}
	zero := string(d.Values().ByNumber(0).Name())
	return strings.TrimPrefix(string(v.Name()), strings.TrimSuffix(zero, "UNSPECIFIED"))
}

func stateName[E interface {
	Descriptor() protoreflect.EnumDescriptor
	Number() protoreflect.EnumNumber
}](e E) string {
	return shortEnum(e.Descriptor(), e.Number())
}
