package frame

import (
	"bytes"
	"fmt"
	"testing"
)

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{256, 64 << 10} {
		b.Run(fmt.Sprintf("%d", size), func(b *testing.B) {
			payload := bytes.Repeat([]byte{7}, size)
			buf := make([]byte, 0, HeaderBytes+size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				buf = Append(buf[:0], 1, payload)
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	for _, size := range []int{256, 64 << 10} {
		b.Run(fmt.Sprintf("%d", size), func(b *testing.B) {
			file := Append(nil, 1, bytes.Repeat([]byte{7}, size))
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, _, err := Parse(file); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReader(b *testing.B) {
	var file []byte
	for range 1000 {
		file = Append(file, 1, bytes.Repeat([]byte{7}, 256))
	}
	source := bytes.NewReader(file)
	b.SetBytes(int64(len(file)))
	b.ReportAllocs()
	for b.Loop() {
		source.Reset(file)
		reader := NewReader(source, MaxPayloadBytes)
		for range 1000 {
			if _, _, err := reader.Next(); err != nil {
				b.Fatal(err)
			}
		}
	}
}
