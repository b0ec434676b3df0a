package gossip

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func mustMeta(t testing.TB, m Meta) []byte {
	t.Helper()
	b, err := m.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func anyMeta(t *rapid.T) Meta {
	text := rapid.StringMatching(`[ -~äß→]{0,40}`)
	return Meta{
		Name: text.Draw(t, "name"), APIAddr: text.Draw(t, "addr"), Version: text.Draw(t, "version"),
		FeatureLevel: rapid.Uint32().Draw(t, "level"), Incarnation: rapid.Uint32().Draw(t, "incarnation"),
		Draining: rapid.Bool().Draw(t, "draining"),
	}
}

func TestMetaSurvivesTheRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyMeta(t)
		b, err := want.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var got Meta
		if err := got.UnmarshalBinary(b); err != nil || got != want {
			t.Fatalf("got %+v, %v, want %+v", got, err, want)
		}
	})
}

func TestMetaSkipsWhatANewerNodeAdds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyMeta(t)
		b, err := want.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		tag := tagDraining
		for range rapid.IntRange(1, 5).Draw(t, "fields") {
			tag += rapid.Uint64Range(1, 1<<40).Draw(t, "tag step")
			b = appendField(b, tag, rapid.SliceOfN(rapid.Byte(), 1, 20).Draw(t, "value"))
		}
		var got Meta
		if err := got.UnmarshalBinary(b); err != nil || got != want {
			t.Fatalf("got %+v, %v, want %+v", got, err, want)
		}
	})
}

func TestMetaAtItsBoundsFits(t *testing.T) {
	long := strings.Repeat("x", maxMetaText)
	b := mustMeta(t, Meta{Name: long, APIAddr: long, Version: long, FeatureLevel: 1<<32 - 1, Incarnation: 1<<32 - 1, Draining: true})
	if len(b) > 512 {
		t.Errorf("%d bytes, want at most 512", len(b))
	}
}

// The bytes of format 1, as released, must be readable for ever.
func TestMetaReadsFormat1(t *testing.T) {
	b := []byte("\x01\x01\x06host-a\x02\x0d10.0.0.1:7460\x03\x051.2.3\x04\x01\x07\x05\x02\xac\x02\x06\x01\x01")
	want := Meta{Name: "host-a", APIAddr: "10.0.0.1:7460", Version: "1.2.3", FeatureLevel: 7, Incarnation: 300, Draining: true}
	var got Meta
	if err := got.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if w := mustMeta(t, want); !bytes.Equal(w, b) {
		t.Errorf("written as %q, want %q", w, b)
	}
}

func TestMetaRefuses(t *testing.T) {
	for name, c := range map[string]struct{ bytes, want string }{
		"nothing":               {"", "empty"},
		"another format":        {"\x02", "format 2 is not known"},
		"too much":              {"\x01" + strings.Repeat("\x00", 512), "513 bytes are above the maximum 512"},
		"a torn tag":            {"\x01\x80", "ends inside a tag"},
		"a torn length":         {"\x01\x01\x80", "ends inside field 1"},
		"a torn value":          {"\x01\x01\x05ab", "ends inside field 1"},
		"a huge length":         {"\x01\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01ab", "ends inside field 1"},
		"a field twice":         {"\x01\x01\x01a\x01\x01b", "field 1 after field 1"},
		"a tag of zero":         {"\x01\x00\x01a", "field 0 after field 0"},
		"an escape":             {"\x01\x01\x04\x1b[2J", "cannot be printed"},
		"broken UTF-8":          {"\x01\x01\x01\xff", "is not UTF-8"},
		"a number of 33 bits":   {"\x01\x04\x05\x80\x80\x80\x80\x10", "not a number of 32 bits"},
		"a number and the rest": {"\x01\x04\x02\x01\x01", "not a number of 32 bits"},
	} {
		t.Run(name, func(t *testing.T) {
			m := Meta{Name: "before"}
			err := m.UnmarshalBinary([]byte(c.bytes))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error = %v, want one with %q", err, c.want)
			}
			if m != (Meta{Name: "before"}) {
				t.Errorf("changed to %+v", m)
			}
		})
	}
	for _, m := range []Meta{{Name: strings.Repeat("x", 129)}, {Version: "a\nb"}, {APIAddr: "\xff"}} {
		if _, err := m.MarshalBinary(); err == nil {
			t.Errorf("MarshalBinary(%+v) = nil error", m)
		}
	}
}

func FuzzMeta(f *testing.F) {
	f.Add([]byte{})
	f.Add(mustMeta(f, Meta{}))
	f.Add(mustMeta(f, Meta{Name: "a", APIAddr: "b:1", Version: "v", FeatureLevel: 1, Incarnation: 2, Draining: true}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m Meta
		if m.UnmarshalBinary(b) != nil {
			return
		}
		var again Meta
		if err := again.UnmarshalBinary(mustMeta(t, m)); err != nil || again != m {
			t.Fatalf("%+v became %+v, %v", m, again, err)
		}
	})
}
