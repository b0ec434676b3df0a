package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
)

// column is one column of a table of T.
type column[T any] struct {
	head string
	wide bool // only with -o wide
	cell func(T) string
}

// printList prints a list of messages in the chosen format: an array at the top
// level, or a table.
func printList[M proto.Message](a *app, items []M, columns []column[M]) error {
	objects := make([]object, len(items))
	for i, m := range items {
		objects[i] = toObject(m)
	}
	return printObjects(a, objects, func(w io.Writer) { writeTable(w, a.flags.output == "wide", items, columns) })
}

func printObjects(a *app, objects []object, table func(io.Writer)) error {
	var b bytes.Buffer
	switch a.flags.output {
	case "jsonl":
		for _, o := range objects {
			if err := writeJSONLine(&b, o); err != nil {
				return err
			}
		}
	case "json", "yaml":
		if err := encode(&b, a.flags.output, objects); err != nil {
			return err
		}
	default:
		table(&b)
	}
	return a.write(b.Bytes())
}

// printOne prints one object, or what table writes.
func printOne(a *app, o object, table func(io.Writer)) error {
	var b bytes.Buffer
	switch a.flags.output {
	case "jsonl":
		if err := writeJSONLine(&b, o); err != nil {
			return err
		}
	case "json", "yaml":
		if err := encode(&b, a.flags.output, o); err != nil {
			return err
		}
	default:
		table(&b)
	}
	return a.write(b.Bytes())
}

func encode(w io.Writer, format string, v any) error {
	if format == "yaml" {
		e := yaml.NewEncoder(w)
		e.SetIndent(2)
		if err := e.Encode(v); err != nil {
			return err
		}
		return e.Close()
	}
	flat, err := marshalJSON(v)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, flat, "", "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err = w.Write(b.Bytes())
	return err
}

func writeJSONLine(w io.Writer, o object) error {
	flat, err := marshalJSON(o)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", flat)
	return err
}

func (a *app) write(b []byte) error {
	if _, err := a.stdout.Write(b); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	return nil
}

func writeTable[T any](w io.Writer, wide bool, items []T, columns []column[T]) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(cell func(column[T]) string) {
		var cells []string
		for _, c := range columns {
			if wide || !c.wide {
				cells = append(cells, cell(c))
			}
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	row(func(c column[T]) string { return c.head })
	for _, item := range items {
		row(func(c column[T]) string {
			if s := printable(c.cell(item)); s != "" {
				return s
			}
			return "-"
		})
	}
	_ = t.Flush() // into memory
}

// stream writes a table to which rows are added as time goes on: its head once, and its
// columns where they were, unless a wider cell moves those behind it for good.
type stream[T any] struct {
	wide    bool
	columns []column[T]
	widths  []int
}

func (s *stream[T]) write(w io.Writer, items []T) {
	columns := s.columns
	if !s.wide {
		columns = slices.DeleteFunc(slices.Clone(columns), func(c column[T]) bool { return c.wide })
	}
	var rows [][]string
	if s.widths == nil {
		s.widths = make([]int, len(columns))
		var head []string
		for _, c := range columns {
			head = append(head, c.head)
		}
		rows = append(rows, head)
	}
	for _, item := range items {
		var row []string
		for _, c := range columns {
			row = append(row, cmp.Or(printable(c.cell(item)), "-"))
		}
		rows = append(rows, row)
	}
	for _, row := range rows {
		for i, cell := range row {
			s.widths[i] = max(s.widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		for i, cell := range row[:len(row)-1] {
			fmt.Fprintf(w, "%s%s  ", cell, strings.Repeat(" ", s.widths[i]-utf8.RuneCountInString(cell)))
		}
		fmt.Fprintln(w, row[len(row)-1])
	}
}

// pairs writes names and values below each other; empty values are left away.
func pairs(w io.Writer, all ...[2]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, p := range all {
		if p[1] != "" {
			fmt.Fprintf(t, "%s:\t%s\n", p[0], printable(p[1]))
		}
	}
	_ = t.Flush() // into memory
}

// printable shows control characters instead of sending them to a terminal: what
// agents and programs say must not move the cursor. Tables have no line breaks.
func printable(s string) string { return escape(s, "") }

// printableText leaves line breaks and tabs.
func printableText(s string) string { return escape(s, "\n\t") }

func escape(s, leave string) string {
	if !strings.ContainsFunc(s, func(r rune) bool {
		return r == utf8.RuneError || unicode.IsControl(r) && !strings.ContainsRune(leave, r)
	}) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsControl(r) && !strings.ContainsRune(leave, r) {
			q := fmt.Sprintf("%q", r)
			b.WriteString(q[1 : len(q)-1])
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// age prints how long ago a time was.
func (a *app) age(ns int64) string {
	if ns == 0 {
		return ""
	}
	return span(a.now().Sub(time.Unix(0, ns)))
}

func span(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

func clock(ns int64) string {
	if ns == 0 {
		return ""
	}
	return time.Unix(0, ns).UTC().Format(time.RFC3339)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
