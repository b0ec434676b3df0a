package record

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAppend(t *testing.T) {
	name := filepath.Join(t.TempDir(), "results.tsv")
	line := Line{Means: "lives", What: "-", Seed: 7, Runs: 3, Good: 1, Void: 1, Failed: 1, Took: 1500 * time.Millisecond, Notes: []string{"faults=7", "writes=220"}}
	t.Setenv(fileVar, name)
	t.Setenv(commitVar, "")
	if err := Append(line); err == nil {
		t.Error("a line without a commit was taken")
	}
	t.Setenv(commitVar, "abc123")
	for range 2 {
		if err := Append(line); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	rows := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(rows) != 3 || rows[0] != Header {
		t.Fatalf("the file holds %q, not a header and two lines", rows)
	}
	if n, want := strings.Count(rows[1], "\t"), strings.Count(Header, "\t"); n != want {
		t.Errorf("the line %q has %d tabs, the header %d", rows[1], n, want)
	}
	if want := "abc123\tlives\t-\t7\t3\t1\t1\t1\t1\tfaults=7 writes=220"; !strings.HasSuffix(rows[1], want) {
		t.Errorf("the line is %q, want it to end with %q", rows[1], want)
	}
}

// The committed record begins with the header that its readers and writers know.
func TestRecordHasItsHeader(t *testing.T) {
	text, err := os.ReadFile("../results.tsv")
	if err != nil {
		t.Fatal(err)
	}
	for n, row := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		if n == 0 && row != Header || strings.Count(row, "\t") != strings.Count(Header, "\t") {
			t.Errorf("line %d is %q, the columns are %q", n+1, row, Header)
		}
	}
}

func TestAppendWithoutFile(t *testing.T) {
	t.Setenv(fileVar, "")
	if err := Append(Line{}); err != nil {
		t.Fatal(err)
	}
}
