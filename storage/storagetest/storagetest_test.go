package storagetest_test

import (
	"testing"

	"kassett"
	"kassett/storage/storagetest"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, func(*testing.T) kassett.Storage { return storagetest.NewMemory() })
}

func TestWrappers(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func() kassett.Storage{
		"Tracing": func() kassett.Storage { return storagetest.NewTracing(storagetest.NewMemory()) },
		"Failing": func() kassett.Storage {
			return storagetest.NewFailing(storagetest.NewMemory(), storagetest.FailNth(0, false))
		},
		"Crashing": func() kassett.Storage { return storagetest.NewCrashing(storagetest.NewMemory(), 0) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storagetest.Run(t, func(*testing.T) kassett.Storage { return wrap() })
		})
	}
}
