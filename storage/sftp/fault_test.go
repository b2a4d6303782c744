package sftp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"kassett"
	"kassett/storage"
	"kassett/storage/sftp"
	"kassett/storage/sftp/sftptest"
	"kassett/storage/storagetest"
)

// through returns a client of a server that a proxy stands before.
func through(t *testing.T, s *sftptest.Server) (*storagetest.Proxy, sftp.Native) {
	t.Helper()
	p, err := storagetest.NewProxy(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	s.Know(t, p.Addr())
	_, port, _ := net.SplitHostPort(p.Addr())
	n := native(s)
	n.Place.Port, _ = strconv.Atoi(port)
	return p, n
}

// work stores, reads, lists and deletes, and checks every answer.
func work(ctx context.Context, s kassett.Storage, seed uint64) error {
	b := storagetest.Random(seed, 200_000)
	h := kassett.Handle{Kind: kassett.PackFile, ID: kassett.Hash(b)}
	if err := s.Put(ctx, h, kassett.BytesBody(b, h.ID)); err != nil {
		return err
	}
	got, err := read(s.Get(ctx, h, 10, 150_000))
	if err == nil && !bytes.Equal(got, b[10:150_010]) {
		err = errors.New("WRONG BYTES were given as good")
	}
	if err != nil {
		return err
	}
	in, err := s.Stat(ctx, h)
	if err == nil && in.Size != int64(len(b)) {
		err = fmt.Errorf("WRONG SIZE: %d", in.Size)
	}
	if err != nil {
		return err
	}
	n := 0
	for in, err := range s.List(ctx, kassett.PackFile) {
		if err != nil {
			return err
		}
		if in.ID == h.ID {
			n++
		}
	}
	if n != 1 {
		return fmt.Errorf("WRONG LISTING: the file is there %d times", n)
	}
	if err := s.Delete(ctx, h); err != nil {
		return err
	}
	if _, err := s.Stat(ctx, h); kassett.KindOf(err) != kassett.NotFound {
		return fmt.Errorf("after Delete: %w", err)
	}
	return nil
}

func read(rc io.ReadCloser, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(rc)
	return b, errors.Join(err, rc.Close())
}

// TestCutEverywhere cuts the connection after every so many bytes, up and down,
// turns bits over there, and stops it there. Bare, an error says that the
// server cannot be reached, and nothing wrong is believed; with retries the
// work is done as if nothing had been.
func TestCutEverywhere(t *testing.T) {
	t.Parallel()
	server := sftptest.Start(t)
	whole, n := through(t, server)
	folder := filepath.Join(t.TempDir(), "repo")
	st, err := sftp.Create(t.Context(), folder, sftp.Options{Dial: n.Dial, Connections: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	st = sftp.New(folder, sftp.Options{Dial: n.Dial, Connections: 1})
	up0, down0 := whole.Bytes()
	if err := work(t.Context(), st, 1); err != nil {
		t.Fatal(err)
	}
	up, down := whole.Bytes()
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	const steps = 9
	for i := range steps {
		at := func(total int64) int64 { return 1 + total*int64(i)/steps + int64(i*37%101) }
		for name, harm := range map[string]storagetest.Harm{
			"cut up":    {CutUp: at(up - up0)},
			"cut down":  {CutDown: at(down - down0)},
			"flip up":   {FlipUp: at(up - up0)},
			"flip down": {FlipDown: at(down - down0)},
			"hole up":   {HoleUp: at(up - up0)},
			"hole down": {HoleDown: at(down - down0)},
		} {
			if (name == "hole up" || name == "hole down") && i%6 != 4 {
				continue // each takes the time after which a line counts as dead
			}
			t.Run(fmt.Sprintf("%s %d", name, i), func(t *testing.T) {
				t.Parallel()
				p, n := through(t, server)
				if strings.HasPrefix(name, "hole") {
					n.KeepAlive = 300 * time.Millisecond
				}
				p.Set(func(c int) storagetest.Harm {
					if c == 1 {
						return harm
					}
					return storagetest.Harm{}
				})
				seed := uint64(1000*i + len(name)*7 + int(name[0]))
				bare := sftp.New(folder, sftp.Options{Dial: n.Dial, Connections: 1})
				if err := work(t.Context(), bare, seed); err != nil && kassett.KindOf(err) != kassett.Offline {
					t.Errorf("bare: %v (kind %q)", err, kassett.KindOf(err))
				}
				if err := bare.Close(); err != nil {
					t.Error(err)
				}
				first := p.Conns() + 1
				p.Set(func(c int) storagetest.Harm {
					if c == first {
						return harm
					}
					return storagetest.Harm{}
				})
				again := sftp.New(folder, sftp.Options{Dial: n.Dial, Connections: 1})
				retried := storage.Retry(again, storage.NewRetries(time.Minute, nil))
				if err := work(t.Context(), retried, seed+500_000); err != nil {
					t.Errorf("with retries: %v", err)
				}
				if err := again.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestSlowAndLate checks that a slow line is only slow, and that a call on a
// line that is dead ends soon after its context.
func TestSlowAndLate(t *testing.T) {
	t.Parallel()
	server := sftptest.Start(t)
	p, n := through(t, server)
	folder := filepath.Join(t.TempDir(), "repo")
	n.KeepAlive = time.Hour // only the context ends it
	st, err := sftp.Create(t.Context(), folder, sftp.Options{Dial: n.Dial, Connections: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	slow := sftp.New(folder, sftp.Options{Dial: n.Dial})
	defer slow.Close()
	p.SetAll(storagetest.Harm{Delay: 2 * time.Millisecond, Rate: 2 << 20})
	if err := work(t.Context(), slow, 1); err != nil {
		t.Errorf("slow: %v", err)
	}
	p.SetAll(storagetest.Harm{HoleDown: 20_000})
	dead := sftp.New(folder, sftp.Options{Dial: n.Dial})
	defer dead.Close()
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Second)
	defer stop()
	begun := time.Now()
	if err := work(ctx, dead, 2); err == nil || time.Since(begun) > 30*time.Second {
		t.Errorf("dead: %v after %s", err, time.Since(begun))
	}
}

// TestReconnect cuts all connections between calls.
func TestReconnect(t *testing.T) {
	t.Parallel()
	p, n := through(t, sftptest.Start(t))
	st, err := sftp.Create(t.Context(), filepath.Join(t.TempDir(), "repo"), sftp.Options{Dial: n.Dial})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	s := storage.Retry(st, storage.NewRetries(time.Minute, nil))
	for i := range 5 {
		if err := work(t.Context(), s, uint64(i)); err != nil {
			t.Fatal(err)
		}
		p.Cut()
	}
	if p.Conns() < 5 {
		t.Errorf("%d connections, want one after each cut", p.Conns())
	}
}

// TestRefused checks what is said of a server that is not trusted, or does not
// trust us.
func TestRefused(t *testing.T) {
	t.Parallel()
	server, other := sftptest.Start(t), sftptest.Start(t)
	for name, change := range map[string]func(n *sftp.Native){
		"unknown host key": func(n *sftp.Native) { n.KnownHosts = nil },
		"changed host key": func(n *sftp.Native) {
			other.Know(t, server.Addr())
			n.KnownHosts = []string{other.KnownHosts}
		},
		"no key":    func(n *sftp.Native) { n.Keys = []string{filepath.Join(t.TempDir(), "none")} },
		"wrong key": func(n *sftp.Native) { n.Keys = []string{other.Key} },
	} {
		n := native(server)
		change(&n)
		_, err := sftp.Create(t.Context(), filepath.Join(t.TempDir(), "repo"), sftp.Options{Dial: n.Dial})
		if kassett.KindOf(err) != kassett.Denied || kassett.HintOf(err) == "" {
			t.Errorf("%s: %v (kind %q, hint %q); want not allowed, and a next step", name, err, kassett.KindOf(err), kassett.HintOf(err))
		}
	}
	n := native(server)
	n.Place.Port = 1
	if _, err := sftp.Create(t.Context(), "/nowhere", sftp.Options{Dial: n.Dial}); kassett.KindOf(err) != kassett.Offline {
		t.Errorf("nobody listens: %v", err)
	}
}
