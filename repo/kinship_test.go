package repo

import (
	"context"
	"strings"
	"testing"

	"kassett"
	"kassett/repo/seal"
	"kassett/storage/storagetest"
)

// TestFalseReplicas holds to that repositories of one ID that do not fit together
// are refused in clear words, and nothing is copied.
func TestFalseReplicas(t *testing.T) {
	t.Parallel()
	src := memoryRepo(t, storagetest.NewMemory(), "")
	for name, change := range map[string]func(c *sealedConfig){
		"master keys": func(c *sealedConfig) { c.key, _ = seal.RandomKey() },
		"cut content": func(c *sealedConfig) { c.ChunkerPolynomial = 0x3DA3358B4DC173 },
		"version":     func(c *sealedConfig) { c.Version = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := sealedConfig{src.Config(), src.key}
			change(&c)
			m := storagetest.NewMemory()
			dst, err := makeRepository(t.Context(), m, []byte("x"), c, InitOptions{Scrypt: Scrypt{N: 16, R: 1, P: 1}})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = dst.Close() }()
			is, err := dst.ReplicaOf(src)
			if is || kassett.KindOf(err) != kassett.Invalid || !strings.Contains(err.Error(), name) || kassett.HintOf(err) == "" {
				t.Errorf("%v, %v", is, err)
			}
			to := &CopyTarget{Repo: dst}
			if _, err := CopyBlobs(context.Background(), src, src.NewBlobSet(), []*CopyTarget{to}, CopyOptions{}); err != nil || kassett.KindOf(to.Err) != kassett.Invalid {
				t.Errorf("copy: %v, %v", err, to.Err)
			}
		})
	}
}
