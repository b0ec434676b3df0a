package raftlogv1

import (
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Unknown names the type of the first message in m, at any depth, that holds a field
// which this build does not know; "" when there is none. It works for proto3 messages of
// any package.
func Unknown(m proto.Message) protoreflect.FullName { return unknownIn(m.ProtoReflect()) }

// nested is which fields of a message hold messages. Asking a message for all that
// it holds instead, as Range does, costs an allocation for each of its fields.
type nested struct {
	single, lists, maps []protoreflect.FieldDescriptor
	choices             []protoreflect.OneofDescriptor
}

// nestings caches what nestedOf has found, by the descriptor of the message.
var nestings sync.Map

func nestedOf(d protoreflect.MessageDescriptor) *nested {
	if n, found := nestings.Load(d); found {
		return n.(*nested)
	}
	n := new(nested)
	for i := range d.Fields().Len() {
		switch f := d.Fields().Get(i); {
		case f.IsMap():
			if f.MapValue().Message() != nil {
				n.maps = append(n.maps, f)
			}
		case f.Message() == nil:
		case f.IsList():
			n.lists = append(n.lists, f)
		case f.ContainingOneof() == nil:
			n.single = append(n.single, f)
		}
	}
	for i := range d.Oneofs().Len() {
		n.choices = append(n.choices, d.Oneofs().Get(i))
	}
	nestings.Store(d, n)
	return n
}

func unknownIn(m protoreflect.Message) (name protoreflect.FullName) {
	if len(m.GetUnknown()) > 0 {
		return m.Descriptor().FullName()
	}
	n := nestedOf(m.Descriptor())
	for _, f := range n.single {
		if m.Has(f) {
			if name = unknownIn(m.Get(f).Message()); name != "" {
				return name
			}
		}
	}
	for _, o := range n.choices {
		if f := m.WhichOneof(o); f != nil && f.Message() != nil {
			if name = unknownIn(m.Get(f).Message()); name != "" {
				return name
			}
		}
	}
	for _, f := range n.lists {
		for i, list := 0, m.Get(f).List(); i < list.Len(); i++ {
			if name = unknownIn(list.Get(i).Message()); name != "" {
				return name
			}
		}
	}
	for _, f := range n.maps {
		m.Get(f).Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
			name = unknownIn(v.Message())
			return name == ""
		})
	}
	return name
}
