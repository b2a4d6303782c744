package sftp_test

import (
	"path/filepath"
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
