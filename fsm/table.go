package fsm

import (
	"cmp"
	"encoding/binary"
	"iter"

	"github.com/tidwall/btree"
	"google.golang.org/protobuf/proto"
)

// A table holds rows of one kind by primary key, and in further orders by its
// indexes. Rows are immutable once put.
type table[R proto.Message] struct {
	key     func(R) string
	rows    *btree.Map[string, R]
	indexes []*index[R]
	// moved, when there is one, is told of every change: from old, nil when it is new, to
	// row, nil when it is deleted.
	moved func(old, row R)
	// frozen is the copy that was published last; nil when the table has changed
	// since.
	frozen *table[R]
}

// An index orders those rows for which key answers true. Keys are unique: an
// index whose key could repeat appends the primary key.
type index[R proto.Message] struct {
	key  func(R) (string, bool)
	rows *btree.Map[string, R]
}

// degree is half of how many items a node of a tree holds at most. The first write
// to a node after each entry copies it whole: with nodes of the library's size, 63
// items, copying was half of what a small entry cost (BenchmarkApply/sealed).
const degree = 8

func newTree[K cmp.Ordered, R any]() *btree.Map[K, R] { return btree.NewMap[K, R](degree) }

func newTable[R proto.Message](key func(R) string, indexes ...func(R) (string, bool)) *table[R] {
	t := &table[R]{key: key, rows: newTree[string, R]()}
	for _, k := range indexes {
		t.indexes = append(t.indexes, &index[R]{key: k, rows: newTree[string, R]()})
	}
	return t
}

// copy returns a table that later puts into t do not touch. Constant time.
func (t *table[R]) copy() *table[R] {
	c := &table[R]{key: t.key, rows: t.rows.Copy(), indexes: make([]*index[R], len(t.indexes))}
	for i, x := range t.indexes {
		c.indexes[i] = &index[R]{key: x.key, rows: x.rows.Copy()}
	}
	return c
}

// published returns a copy that nobody may write into: the same one while the table
// does not change.
func (t *table[R]) published() *table[R] {
	if t.frozen == nil {
		t.frozen = t.copy()
	}
	return t.frozen
}

func (t *table[R]) get(key string) (R, bool) { return t.rows.Get(key) }

// getBy returns the row that the i-th index holds under the whole key.
func (t *table[R]) getBy(i int, key string) (R, bool) { return t.indexes[i].rows.Get(key) }

func (t *table[R]) put(row R) {
	t.frozen = nil
	old, replaced := t.rows.Set(t.key(row), row)
	for _, x := range t.indexes {
		k, indexed := x.key(row)
		if replaced {
			if was, ok := x.key(old); ok && (!indexed || was != k) {
				x.rows.Delete(was)
			}
		}
		if indexed {
			x.rows.Set(k, row)
		}
	}
	if t.moved != nil {
		t.moved(old, row)
	}
}

func (t *table[R]) delete(key string) (R, bool) {
	old, deleted := t.rows.Delete(key)
	if deleted {
		t.frozen = nil
		for _, x := range t.indexes {
			if k, ok := x.key(old); ok {
				x.rows.Delete(k)
			}
		}
		if t.moved != nil {
			var none R
			t.moved(old, none)
		}
	}
	return old, deleted
}

func (t *table[R]) len() int { return t.rows.Len() }

// all yields every row in the order of keys.
func (t *table[R]) all() iter.Seq[R] { return prefixed(t.rows, "") }

// withPrefix yields the rows whose primary key begins with prefix, in order.
func (t *table[R]) withPrefix(prefix string) iter.Seq[R] { return prefixed(t.rows, prefix) }

// by yields the rows of the i-th index whose key begins with prefix, in order.
func (t *table[R]) by(i int, prefix string) iter.Seq[R] { return prefixed(t.indexes[i].rows, prefix) }

func prefixed[R any](rows *btree.Map[string, R], prefix string) iter.Seq[R] {
	return func(yield func(R) bool) {
		rows.Ascend(prefix, func(key string, row R) bool {
			if len(key) < len(prefix) || key[:len(prefix)] != prefix {
				return false
			}
			return yield(row)
		})
	}
}

// where yields the rows that are meant.
func where[R any](rows iter.Seq[R], meant func(R) bool) iter.Seq[R] {
	return func(yield func(R) bool) {
		for r := range rows {
			if meant(r) && !yield(r) {
				return
			}
		}
	}
}

// first returns the first row of a sequence.
func first[R any](rows iter.Seq[R]) (R, bool) {
	for r := range rows {
		return r, true
	}
	var none R
	return none, false
}

// last returns the last row of a sequence.
func last[R any](rows iter.Seq[R]) (found R, ok bool) {
	for r := range rows {
		found, ok = r, true
	}
	return found, ok
}

// sized is s after its length: two of them joined cannot be taken for others,
// whatever bytes they hold.
func sized[S string | []byte](s S) string { return be32(uint32(len(s))) + string(s) }

// be32 and be64 write numbers so that strings order as the numbers do.
func be32(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }
func be64(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }
