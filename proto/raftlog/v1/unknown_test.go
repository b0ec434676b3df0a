package raftlogv1_test

import (
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Every message that a mutation or a record may hold, wherever it stands in it, is
// looked into.
func TestUnknownLooksIntoEveryMessage(t *testing.T) {
	from := protowire.AppendVarint(protowire.AppendTag(nil, 20_000, protowire.VarintType), 1)
	for _, root := range []proto.Message{new(raftlogv1.Mutation), new(raftlogv1.SnapshotRecord), new(raftlogv1.Entry)} {
		places := 0
		var walk func(top proto.Message, at protoreflect.Message, path string, depth int)
		walk = func(top proto.Message, at protoreflect.Message, path string, depth int) {
			if name := raftlogv1.Unknown(top); name != "" {
				t.Fatalf("%s: Unknown = %q with nothing unknown", path, name)
			}
			at.SetUnknown(from)
			if raftlogv1.Unknown(top) == "" {
				t.Errorf("%s: a field of the future is not seen", path)
			}
			at.SetUnknown(nil)
			places++
			if depth == 0 {
				return
			}
			for i := range at.Descriptor().Fields().Len() {
				f := at.Descriptor().Fields().Get(i)
				switch {
				case f.Message() == nil:
				case f.IsList():
					list := at.Mutable(f).List()
					list.AppendMutable() // the second of two is looked into, too
					walk(top, list.AppendMutable().Message(), path+"."+string(f.Name()), depth-1)
					at.Clear(f)
				default:
					walk(top, at.Mutable(f).Message(), path+"."+string(f.Name()), depth-1)
					at.Clear(f)
				}
			}
		}
		walk(root, root.ProtoReflect(), string(root.ProtoReflect().Descriptor().Name()), 4)
		if places < 15 {
			t.Errorf("%T holds messages in %d places; the walk does not work", root, places)
		}
	}
}

// The order of a map would show on disk and in hashes.
func TestNothingOnDiskIsAMap(t *testing.T) {
	for _, file := range []protoreflect.FileDescriptor{
		raftlogv1.File_raftlog_v1_agents_proto, raftlogv1.File_raftlog_v1_cluster_proto, raftlogv1.File_raftlog_v1_commands_proto,
		raftlogv1.File_raftlog_v1_entry_proto, raftlogv1.File_raftlog_v1_snapshot_proto,
	} {
		for i := range file.Messages().Len() {
			for f := range file.Messages().Get(i).Fields().Len() {
				if field := file.Messages().Get(i).Fields().Get(f); field.IsMap() {
					t.Errorf("%s is a map", field.FullName())
				}
			}
		}
	}
}
