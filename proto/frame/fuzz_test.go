package frame

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

func seeds(f *testing.F) {
	f.Add([]byte{})
	f.Add(Append(nil, 0, nil))
	f.Add(Append(Append(nil, 1, []byte("one")), 255, bytes.Repeat([]byte{0}, 100)))
	f.Add(Append(nil, 1, []byte("torn"))[:14])
	f.Add(header(1<<32 - 1))
}

// FuzzParse: whatever Parse accepts is exactly what Append writes, and an error
// is one of the two kinds.
func FuzzParse(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		typ, payload, rest, err := Parse(b)
		if err != nil {
			var corrupt *CorruptError
			if err != ErrTorn && !errors.As(err, &corrupt) {
				t.Fatalf("Parse = %v, neither torn nor corrupt", err)
			}
			if payload != nil || rest != nil {
				t.Fatal("Parse handed out bytes together with an error")
			}
			return
		}
		if again := append(Append(nil, typ, payload), rest...); !bytes.Equal(again, b) {
			t.Fatalf("Parse accepted %x, but that is written as %x", b, again)
		}
	})
}

// FuzzReader: a Reader and Parse agree on every input, in pieces of any size.
func FuzzReader(f *testing.F) {
	seeds(f)
	const limit = 1 << 16
	f.Fuzz(func(t *testing.T, b []byte) {
		reader := NewReader(iotest.HalfReader(bytes.NewReader(b)), limit)
		rest := b
		for {
			typ, payload, err := reader.Next()
			if cap(reader.buf) > limit {
				t.Fatalf("the reader took %d bytes, above its limit %d", cap(reader.buf), limit)
			}
			wantTyp, wantPayload, next, wantErr := Parse(rest)
			if len(wantPayload) > limit {
				return // Parse has no limit of its own
			}
			switch {
			case err == nil && wantErr == nil:
				if typ != wantTyp || !bytes.Equal(payload, wantPayload) {
					t.Fatalf("Next = %d, %x, Parse = %d, %x", typ, payload, wantTyp, wantPayload)
				}
				rest = next
				continue
			case err == io.EOF:
				if len(rest) != 0 {
					t.Fatalf("Next = io.EOF with %d bytes left", len(rest))
				}
			case err == nil || wantErr == nil:
				t.Fatalf("Next = %v, Parse = %v", err, wantErr)
			}
			if want := int64(len(b) - len(rest)); reader.Offset() != want {
				t.Fatalf("Offset after %v = %d, want %d", err, reader.Offset(), want)
			}
			return
		}
	})
}
