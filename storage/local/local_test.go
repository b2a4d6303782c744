package local_test

import (
	"path/filepath"
	"testing"

	"kassett"
	"kassett/storage/local"
	"kassett/storage/storagetest"
)

func TestStorage(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, func(t *testing.T) kassett.Storage {
		s, err := local.Create(filepath.Join(t.TempDir(), "repo"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
