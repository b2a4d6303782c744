package snapshot_test

import (
	"flag"
	"io/fs"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kassett"
	"kassett/repo"
	"kassett/snapshot"
)

// treeOf stores nodes as a tree, in any order and with any names.
func treeOf(t *testing.T, r *repo.Repository, nodes ...*snapshot.Node) kassett.ID {
	t.Helper()
	b := []byte(`{"nodes":[`)
	for i, n := range nodes {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		b, err = n.AppendJSON(b)
		must(t, err)
	}
	return store(t, r, repo.TreeBlob, append(b, "]}\n"...))
}

func store(t *testing.T, r *repo.Repository, kind repo.BlobType, b []byte) kassett.ID {
	t.Helper()
	w := r.NewWriter(t.Context(), repo.WriterOptions{})
	defer w.Abort()
	s, err := w.Save(t.Context(), kind, b)
	must(t, err)
	must(t, w.Flush(t.Context()))
	return s.ID
}

func dirNode(name string, tree kassett.ID) *snapshot.Node {
	return &snapshot.Node{Entry: kassett.Entry{Name: name, Type: kassett.Dir, Mode: fs.ModeDir | 0o755, ModTime: time.Unix(1e9, 0)}, Subtree: tree}
}

func fileNode(name string, size int, blobs ...kassett.ID) *snapshot.Node {
	if blobs == nil {
		blobs = []kassett.ID{}
	}
	return &snapshot.Node{
		Entry:   kassett.Entry{Name: name, Type: kassett.File, Mode: 0o644, ModTime: time.Unix(1e9, 0), Size: uint64(size), Links: 1},
		Content: blobs,
	}
}

func linkNode(to string) *snapshot.Node {
	return &snapshot.Node{Entry: kassett.Entry{Name: "x", Type: kassett.Symlink, Mode: fs.ModeSymlink | 0o777, LinkTarget: to, ModTime: time.Unix(1e9, 0)}}
}

// checkSome is rapid.Check with at most n runs, because each takes long, unless
// -rapid.checks asks for more than is usual.
func checkSome(t *testing.T, n int, prop func(*rapid.T)) {
	t.Helper()
	asked := flag.Lookup("rapid.checks")
	runs, failed := 0, false
	rapid.Check(t, func(rt *rapid.T) {
		if runs++; runs > n && !failed && asked.Value.String() == asked.DefValue {
			return
		}
		passed := false
		defer func() { failed = failed || !passed }() // then it is made smaller
		prop(rt)
		passed = !rt.Failed()
	})
}

// pseudoRandom returns bytes that do not compress.
func pseudoRandom(n int, seed uint64) []byte {
	b := make([]byte, n)
	for i := range b {
		seed = seed*6364136223846793005 + 1442695040888963407
		b[i] = byte(seed >> 56)
	}
	return b
}
