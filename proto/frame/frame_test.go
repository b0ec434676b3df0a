package frame

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

type record struct {
	typ     byte
	payload []byte
}

func drawRecord(t *rapid.T) record {
	return record{
		typ:     rapid.Byte().Draw(t, "type"),
		payload: rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "payload"),
	}
}

func TestFramesSurviveTheRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(rapid.Custom(drawRecord), 0, 12).Draw(t, "records")
		var file []byte
		for _, r := range want {
			file = Append(file, r.typ, r.payload)
		}

		rest := file
		for i, r := range want {
			typ, payload, next, err := Parse(rest)
			if err != nil || typ != r.typ || !bytes.Equal(payload, r.payload) {
				t.Fatalf("Parse of record %d = %d, %x, %v, want %d, %x", i, typ, payload, err, r.typ, r.payload)
			}
			rest = next
		}
		if len(rest) != 0 {
			t.Fatalf("%d bytes are left after the last record", len(rest))
		}

		reader := NewReader(iotest.OneByteReader(bytes.NewReader(file)), MaxPayloadBytes)
		offset := int64(0)
		for i, r := range want {
			if reader.Offset() != offset {
				t.Fatalf("Offset before record %d = %d, want %d", i, reader.Offset(), offset)
			}
			typ, payload, err := reader.Next()
			if err != nil || typ != r.typ || !bytes.Equal(payload, r.payload) {
				t.Fatalf("Next for record %d = %d, %x, %v, want %d, %x", i, typ, payload, err, r.typ, r.payload)
			}
			offset += int64(HeaderBytes + len(r.payload))
		}
		if _, _, err := reader.Next(); err != io.EOF {
			t.Fatalf("Next at the end = %v, want io.EOF", err)
		}
	})
}

// The bytes are on disks: this test fails when the format changes without a new
// version number.
func TestFormatOne(t *testing.T) {
	const want = "a9010750" + "05000000" + "2eca3a8f" + "68656c6c6f"
	if got := hex.EncodeToString(Append(nil, 7, []byte("hello"))); got != want {
		t.Fatalf("Append(7, hello) = %s, want %s", got, want)
	}
}

func TestEveryTruncationIsTorn(t *testing.T) {
	first := Append(nil, 1, []byte("first"))
	file := Append(bytes.Clone(first), 2, bytes.Repeat([]byte("second"), 40))
	for n := range len(file) {
		cut := file[:n]
		if n < len(first) {
			if _, _, _, err := Parse(cut); err != ErrTorn {
				t.Fatalf("Parse of %d bytes = %v, want ErrTorn", n, err)
			}
		}

		reader := NewReader(bytes.NewReader(cut), MaxPayloadBytes)
		wantErr, wantOffset := ErrTorn, 0
		if n >= len(first) {
			if _, payload, err := reader.Next(); err != nil || string(payload) != "first" {
				t.Fatalf("Next of a file cut to %d bytes = %q, %v", n, payload, err)
			}
			wantOffset = len(first)
		}
		if n == 0 || n == len(first) {
			wantErr = io.EOF
		}
		for range 2 { // an error stays
			if _, _, err := reader.Next(); err != wantErr {
				t.Fatalf("Next of a file cut to %d bytes = %v, want %v", n, err, wantErr)
			}
		}
		if reader.Offset() != int64(wantOffset) {
			t.Fatalf("Offset of a file cut to %d bytes = %d, want %d", n, reader.Offset(), wantOffset)
		}
	}
}

func TestEverySingleBitFlipIsCorruptAndNeverTorn(t *testing.T) {
	for _, size := range []int{0, 1, 31, 400} {
		good := Append(nil, 3, bytes.Repeat([]byte{0x5a}, size))
		file := Append(bytes.Clone(good), 4, []byte("behind"))
		for bit := range len(good) * 8 {
			bad := bytes.Clone(file)
			bad[bit/8] ^= 1 << (bit % 8)

			var corrupt *CorruptError
			if _, payload, _, err := Parse(bad); !errors.As(err, &corrupt) || payload != nil {
				t.Fatalf("payload of %d bytes, bit %d flipped: Parse = %x, %v, want a CorruptError", size, bit, payload, err)
			}
			if _, payload, err := NewReader(bytes.NewReader(bad), MaxPayloadBytes).Next(); !errors.As(err, &corrupt) || payload != nil {
				t.Fatalf("payload of %d bytes, bit %d flipped: Next = %x, %v, want a CorruptError", size, bit, payload, err)
			}
		}
	}
}

func TestCorruptErrorNamesTheOffset(t *testing.T) {
	file := Append(Append(nil, 1, []byte("first")), 1, []byte("second"))
	file[len(file)-1] ^= 0x80
	reader := NewReader(bytes.NewReader(file), MaxPayloadBytes)
	if _, _, err := reader.Next(); err != nil {
		t.Fatal(err)
	}
	_, _, err := reader.Next()
	const want = "frame at offset 17 is corrupt: checksum differs"
	if err == nil || err.Error() != want {
		t.Fatalf("Next = %v, want %s", err, want)
	}
}

// header makes a header whose own checksum is right, as a hostile or confused
// writer would.
func header(length uint32) []byte {
	h := make([]byte, HeaderBytes)
	h[0], h[1], h[2] = magic, version, 9
	binary.LittleEndian.PutUint32(h[4:], length)
	h[3] = headerSum(h)
	return h
}

func TestLengthBombsAreRefusedBeforeMemoryIsTaken(t *testing.T) {
	for _, tc := range []struct {
		name   string
		limit  int
		length uint32
	}{
		{"one above the limit", 1024, 1025},
		{"all bits set", 1024, 1<<32 - 1},
		{"above the maximum, whatever the limit", 1 << 40, MaxPayloadBytes + 1},
		{"a negative limit is zero", -1, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bomb := header(tc.length)
			var corrupt *CorruptError
			reader := NewReader(bytes.NewReader(bomb), tc.limit)
			if _, _, err := reader.Next(); !errors.As(err, &corrupt) || !strings.Contains(err.Error(), "length is") {
				t.Fatalf("Next = %v, want a CorruptError about the length", err)
			}
			if cap(reader.buf) != 0 {
				t.Fatalf("the reader took %d bytes for a frame that it refused", cap(reader.buf))
			}
		})
	}
	var corrupt *CorruptError
	if _, _, _, err := Parse(header(MaxPayloadBytes + 1)); !errors.As(err, &corrupt) {
		t.Fatalf("Parse = %v, want a CorruptError", err)
	}
	// Within the limit but not there: torn, and nothing was handed out.
	if _, _, _, err := Parse(header(MaxPayloadBytes)); err != ErrTorn {
		t.Fatalf("Parse = %v, want ErrTorn", err)
	}
}

func TestAppendRefusesAPayloadAboveTheMaximum(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Fatal("Append took a payload above the maximum")
		}
	}()
	Append(nil, 1, make([]byte, MaxPayloadBytes+1))
}

func TestReaderHandsOnTheErrorOfItsSource(t *testing.T) {
	broken := errors.New("disk is on fire")
	file := Append(nil, 1, []byte("payload"))
	for _, n := range []int{0, 5, HeaderBytes, HeaderBytes + 3} {
		source := io.MultiReader(bytes.NewReader(file[:n]), iotest.ErrReader(broken))
		if _, _, err := NewReader(source, MaxPayloadBytes).Next(); !errors.Is(err, broken) {
			t.Fatalf("Next with a source that fails after %d bytes = %v, want %v", n, err, broken)
		}
	}
}

func TestParsedPayloadCannotReachTheNextFrame(t *testing.T) {
	file := Append(Append(nil, 1, []byte("a")), 2, []byte("b"))
	_, payload, rest, err := Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	_ = append(payload, 'x') // would fit where the next frame begins
	if _, next, _, err := Parse(rest); err != nil || string(next) != "b" {
		t.Fatalf("the second frame = %q, %v, want b", next, err)
	}
}

// A bad length is never believed: the header's own checksum (or the magic)
// catches each pair of flipped bits in the header, and each burst within the
// length.
func TestHeaderChecksumCatchesPairsAndBursts(t *testing.T) {
	good := header(1234)
	for i := range 64 {
		for j := range i {
			bad := bytes.Clone(good)
			bad[i/8] ^= 1 << (i % 8)
			bad[j/8] ^= 1 << (j % 8)
			if _, _, _, err := parseHeader(bad, MaxPayloadBytes); err == nil {
				t.Fatalf("bits %d and %d flipped: the header is believed", i, j)
			}
		}
	}
	for shift := range 32 - 7 {
		for pattern := uint32(1); pattern < 256; pattern++ {
			bad := bytes.Clone(good)
			// The checksum takes the bytes in file order, the highest bit first.
			binary.BigEndian.PutUint32(bad[4:], binary.BigEndian.Uint32(bad[4:])^pattern<<shift)
			if _, _, _, err := parseHeader(bad, MaxPayloadBytes); err == nil {
				t.Fatalf("burst %#x shifted by %d: the header is believed", pattern, shift)
			}
		}
	}
}
