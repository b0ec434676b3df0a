package fsm

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// nested is which fields of a message hold messages. Asking a message for all that
// it holds instead, as Range does, costs an allocation for each field of each row.
type nested struct {
	single, lists []protoreflect.FieldDescriptor
	choices       []protoreflect.OneofDescriptor
}

// nestings are those of all that lies on disk, by the full name of the message.
var nestings = nestingsOf(new(raftlogv1.Mutation), new(raftlogv1.SnapshotRecord))

func nestingsOf(roots ...proto.Message) map[protoreflect.FullName]nested {
	all := make(map[protoreflect.FullName]nested)
	var add func(protoreflect.MessageDescriptor)
	add = func(d protoreflect.MessageDescriptor) {
		if _, done := all[d.FullName()]; done {
			return
		}
		var n nested
		all[d.FullName()] = n // ends the way round a message that holds itself
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			switch {
			case f.Message() == nil:
				continue
			case f.IsMap():
				panic("fsm: " + string(f.FullName()) + " is a map: its order would show")
			case f.IsList():
				n.lists = append(n.lists, f)
			case f.ContainingOneof() == nil:
				n.single = append(n.single, f)
			}
			add(f.Message())
		}
		for i := range d.Oneofs().Len() {
			n.choices = append(n.choices, d.Oneofs().Get(i))
		}
		all[d.FullName()] = n
	}
	for _, m := range roots {
		add(m.ProtoReflect().Descriptor())
	}
	return all
}

// unknown names the first message, at any depth, with a field that this build does
// not know; "" when there is none.
func unknown(m proto.Message) string { return unknownIn(m.ProtoReflect()) }

func unknownIn(m protoreflect.Message) string {
	if len(m.GetUnknown()) > 0 {
		return fmt.Sprintf("an unknown field of %s", m.Descriptor().FullName())
	}
	n := nestings[m.Descriptor().FullName()]
	for _, f := range n.single {
		if m.Has(f) {
			if name := unknownIn(m.Get(f).Message()); name != "" {
				return name
			}
		}
	}
	for _, o := range n.choices {
		if f := m.WhichOneof(o); f != nil && f.Message() != nil {
			if name := unknownIn(m.Get(f).Message()); name != "" {
				return name
			}
		}
	}
	for _, f := range n.lists {
		for i, list := 0, m.Get(f).List(); i < list.Len(); i++ {
			if name := unknownIn(list.Get(i).Message()); name != "" {
				return name
			}
		}
	}
	return ""
}
