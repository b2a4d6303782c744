package repo_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"kassett"
	"kassett/repo"
)

// What these tests save are snapshots that stock restic understands, of one
// folder with files of one blob each.

type storySnapshot struct {
	Time  time.Time  `json:"time"`
	Tree  kassett.ID `json:"tree"`
	Paths []string   `json:"paths"`
}

type storyNode struct {
	Name    string       `json:"name"`
	Type    string       `json:"type"`
	ModTime time.Time    `json:"mtime"`
	AccTime time.Time    `json:"atime"`
	ChgTime time.Time    `json:"ctime"`
	UID     int          `json:"uid"`
	GID     int          `json:"gid"`
	Size    int          `json:"size,omitempty"`
	Content []kassett.ID `json:"content"`
}

type storyTree struct {
	Nodes []storyNode `json:"nodes"`
}

var storyTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// storyBytes returns n bytes that depend on seed only; every second one can be
// compressed.
func storyBytes(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 7))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
		if seed%2 == 1 {
			b[i] &= 7
		}
	}
	return b
}

// saveFiles saves blobs and a folder that has them, and returns the tree.
func saveFiles(ctx context.Context, w *repo.Writer, files ...[]byte) (kassett.ID, error) {
	tree := storyTree{Nodes: []storyNode{}}
	for i, b := range files {
		saved, err := w.Save(ctx, repo.DataBlob, b)
		if err != nil {
			return kassett.ID{}, err
		}
		tree.Nodes = append(tree.Nodes, storyNode{
			Name: fmt.Sprintf("f%06d", i), Type: "file", ModTime: storyTime, AccTime: storyTime, ChgTime: storyTime,
			Size: len(b), Content: []kassett.ID{saved.ID},
		})
	}
	b, err := json.Marshal(tree)
	if err != nil {
		return kassett.ID{}, err
	}
	saved, err := w.Save(ctx, repo.TreeBlob, append(b, '\n'))
	return saved.ID, err
}

// backUp saves a snapshot of files, durable step by step.
func backUp(ctx context.Context, r *repo.Repository, files ...[]byte) (kassett.ID, error) {
	w := r.NewWriter(ctx, repo.WriterOptions{})
	tree, err := saveFiles(ctx, w, files...)
	if err == nil {
		err = w.Flush(ctx)
	}
	if err != nil {
		w.Abort()
		return kassett.ID{}, err
	}
	b, err := json.Marshal(storySnapshot{Time: storyTime, Tree: tree, Paths: []string{"/story"}})
	if err != nil {
		return kassett.ID{}, err
	}
	return r.SaveUnpacked(ctx, kassett.SnapshotFile, b)
}

// readAll loads everything that the listed snapshots need and returns it as a
// set: an error means that something that was promised is not there.
func readAll(ctx context.Context, r *repo.Repository) (*repo.BlobSet, error) {
	used := r.NewBlobSet()
	for info, err := range r.List(ctx, kassett.SnapshotFile) {
		if err != nil {
			return nil, err
		}
		if err := readSnapshot(ctx, r, info.ID, used); err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", info.ID, err)
		}
	}
	return used, nil
}

func readSnapshot(ctx context.Context, r *repo.Repository, id kassett.ID, used *repo.BlobSet) error {
	plain, err := r.LoadUnpacked(ctx, kassett.SnapshotFile, id)
	if err != nil {
		return err
	}
	var sn storySnapshot
	if err := json.Unmarshal(plain, &sn); err != nil {
		return err
	}
	h := repo.BlobHandle{Type: repo.TreeBlob, ID: sn.Tree}
	used.Add(h)
	b, err := r.LoadBlob(ctx, h, nil)
	if err != nil {
		return err
	}
	var tree storyTree
	if err := json.Unmarshal(b, &tree); err != nil {
		return err
	}
	for _, n := range tree.Nodes {
		for _, id := range n.Content {
			h := repo.BlobHandle{Type: repo.DataBlob, ID: id}
			used.Add(h)
			if b, err = r.LoadBlob(ctx, h, b); err != nil {
				return err
			}
			if len(b) != n.Size {
				return errors.New("a blob has not the size of its file")
			}
		}
	}
	return nil
}

// prune loads the index, finds what is used, and prunes.
func prune(ctx context.Context, r *repo.Repository, o repo.PruneOptions) (repo.PruneStats, error) {
	if err := r.LoadIndex(ctx, nil); err != nil {
		return repo.PruneStats{}, err
	}
	used, err := readAll(ctx, r)
	if err != nil {
		return repo.PruneStats{}, err
	}
	return r.Prune(ctx, used, o)
}

// check runs a check that reads everything, and returns what it found.
func check(ctx context.Context, r *repo.Repository) ([]repo.Finding, error) {
	var found []repo.Finding
	err := r.Check(ctx, repo.CheckOptions{ReadData: repo.Subset{All: true}}, func(f repo.Finding) { found = append(found, f) })
	return found, err
}

// wantSound fails the test unless all that is listed loads and a check finds no
// damage. It returns the harmless findings.
func wantSound(t testing.TB, r *repo.Repository) []repo.Finding {
	t.Helper()
	ctx := context.Background()
	if err := r.LoadIndex(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(ctx, r); err != nil {
		t.Fatal(err)
	}
	found, err := check(ctx, r)
	if err != nil {
		t.Fatalf("check: %v\n%v", err, found)
	}
	return found
}

func mustBackUp(t testing.TB, r *repo.Repository, files ...[]byte) kassett.ID {
	t.Helper()
	id, err := backUp(context.Background(), r, files...)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func mustForget(t testing.TB, r *repo.Repository, id kassett.ID) {
	t.Helper()
	if err := r.Delete(context.Background(), kassett.SnapshotFile, id); err != nil {
		t.Fatal(err)
	}
}

// manyFiles returns n contents of a few kilobytes, from a seed on.
func manyFiles(seed uint64, n int) (files [][]byte) {
	for i := range uint64(n) {
		files = append(files, storyBytes(seed+i, 1000+int(i%7)*1500))
	}
	return files
}
