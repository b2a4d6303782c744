package sftp_test

import (
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"kassett"
	"kassett/storage/sftp"
	"kassett/storage/sftp/sftptest"
	"kassett/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// native returns a client of a server.
func native(s *sftptest.Server) sftp.Native {
	return sftp.Native{Place: sftp.Place{Host: s.Host, Port: s.Port}, KnownHosts: []string{s.KnownHosts}, Keys: []string{s.Key}}
}

func create(t *testing.T, s *sftptest.Server) *sftp.Storage {
	t.Helper()
	st, err := sftp.Create(t.Context(), filepath.Join(t.TempDir(), "repo"), sftp.Options{Dial: native(s).Dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

func TestStorage(t *testing.T) {
	t.Parallel()
	s := sftptest.Start(t)
	storagetest.Run(t, func(t *testing.T) kassett.Storage { return create(t, s) })
}

// TestFoldersAreSharedSideBySide lets many calls on one connection flush the same
// folder for the first time at once.
func TestFoldersAreSharedSideBySide(t *testing.T) {
	t.Parallel()
	server := sftptest.Start(t)
	for range 5 {
		st, err := sftp.Create(t.Context(), filepath.Join(t.TempDir(), "repo"), sftp.Options{Dial: native(server).Dial, Connections: 1})
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for i := range 16 {
			all.Go(func() {
				b := storagetest.Random(uint64(i), 100)
				h := kassett.Handle{Kind: kassett.IndexFile, ID: kassett.Hash(b)}
				if err := st.Put(t.Context(), h, kassett.BytesBody(b, h.ID)); err != nil {
					t.Error(err)
				}
				if err := st.Delete(t.Context(), h); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}
}
