package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"kassett"
	"kassett/repo"
)

// Tree is one folder: its nodes in order of the bytes of their names, each name
// once.
type Tree struct {
	Nodes []*Node
}

// ErrOrder is the error of a tree whose nodes are not in order of their names,
// or that holds a name twice.
var ErrOrder = errors.New("nodes are not in order, or a name is there twice")

// LoadTree reads and decodes the tree blob id. The repository's index must be
// loaded. See [DecodeTree] for what it returns with an error.
func LoadTree(ctx context.Context, r *repo.Repository, id kassett.ID) (*Tree, error) {
	b, err := r.LoadBlob(ctx, repo.BlobHandle{Type: repo.TreeBlob, ID: id}, nil)
	if err != nil {
		return nil, fmt.Errorf("load tree %s: %w", id.Short(), err)
	}
	return readTree(id, b)
}

// readTree is DecodeTree with an error that says which tree it is.
func readTree(id kassett.ID, b []byte) (*Tree, error) {
	t, err := DecodeTree(b)
	if err != nil {
		return t, &kassett.Error{
			Op: "read tree", What: id.String(), Kind: kassett.Corrupt, Err: err,
			Hint: "run repair snapshots, or restore from another copy of the repository",
		}
	}
	return t, nil
}

// Find returns the node of that name, or nil.
func (t *Tree) Find(name string) *Node {
	lo, hi := 0, len(t.Nodes)
	for lo < hi {
		if mid := (lo + hi) / 2; t.Nodes[mid].Name < name {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(t.Nodes) && t.Nodes[lo].Name == name {
		return t.Nodes[lo]
	}
	return nil
}

// Encode returns the bytes of the tree blob. Nodes that are not in order are an
// [ErrOrder], since no reader of the format would find them.
func (t *Tree) Encode() ([]byte, error) {
	b := TreeBuilder{}
	for _, n := range t.Nodes {
		if err := b.Add(n); err != nil {
			return nil, err
		}
	}
	return b.Finish(), nil
}

// TreeBuilder encodes a tree node by node. Its zero value is ready for use, by
// one goroutine.
type TreeBuilder struct {
	buf  []byte
	last string
	n    int
}

// Add appends a node. Its name must come after that of the node before it,
// otherwise the error is [ErrOrder].
func (b *TreeBuilder) Add(n *Node) error {
	if n.Name <= b.last {
		return fmt.Errorf("add node %q after %q: %w", n.Name, b.last, ErrOrder)
	}
	if b.n == 0 {
		b.buf = append(b.buf[:0], `{"nodes":[`...)
	} else {
		b.buf = append(b.buf, ',')
	}
	buf, err := n.AppendJSON(b.buf)
	if err != nil {
		return fmt.Errorf("encode node %q: %w", n.Name, err)
	}
	b.buf, b.last = buf, n.Name
	b.n++
	return nil
}

// Grow makes room for so many more bytes, when it is known how many will come.
func (b *TreeBuilder) Grow(n int) { b.buf = slices.Grow(b.buf, n) }

// Len returns the number of nodes added since the last Finish.
func (b *TreeBuilder) Len() int { return b.n }

// Finish returns the bytes of the tree blob and makes b ready for another tree.
// The bytes are valid until the next call of Add.
func (b *TreeBuilder) Finish() []byte {
	if b.n == 0 {
		b.buf = append(b.buf[:0], `{"nodes":[`...)
	}
	b.buf = append(b.buf, "]}\n"...)
	b.last, b.n = "", 0
	return b.buf
}
