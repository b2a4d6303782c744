package storagetest_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"kassett/storage/storagetest"
)

// echo starts a server that sends back what it receives.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

func TestProxy(t *testing.T) {
	t.Parallel()
	sent := storagetest.Random(1, 100_000)
	flipped := bytes.Clone(sent)
	flipped[70_000] ^= 0x10
	for _, c := range []struct {
		name string
		harm storagetest.Harm
		want []byte
		hang bool
	}{
		{"none", storagetest.Harm{}, sent, false},
		{"refused", storagetest.Harm{Refuse: true}, nil, false},
		{"cut at once", storagetest.Harm{CutUp: storagetest.First}, nil, false},
		{"cut down", storagetest.Harm{CutDown: 50_001}, sent[:50_001], false},
		{"flip up", storagetest.Harm{FlipUp: 70_000}, flipped, false},
		{"flip down", storagetest.Harm{FlipDown: 70_000}, flipped, false},
		{"hole", storagetest.Harm{HoleDown: 1000}, sent[:1000], true},
		{"slow", storagetest.Harm{Delay: time.Millisecond, Rate: 4 << 20, PauseUp: 500, PauseFor: 10}, sent, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, err := storagetest.NewProxy(echo(t))
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			p.SetAll(c.harm)
			conn, err := net.Dial("tcp", p.Addr())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			done := make(chan struct{})
			go func() {
				defer close(done)
				conn.Write(sent) // fails where it is cut
				if tcp, ok := conn.(*net.TCPConn); ok && !c.hang {
					tcp.CloseWrite()
				}
			}()
			if c.hang {
				conn.SetReadDeadline(time.Now().Add(time.Second))
			}
			got, err := io.ReadAll(conn)
			if c.hang != errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("read: %v", err)
			}
			if !bytes.Equal(got, c.want) {
				t.Errorf("%d bytes came back, want %d", len(got), len(c.want))
			}
			<-done
		})
	}
}

func TestProxyByNumber(t *testing.T) {
	t.Parallel()
	p, err := storagetest.NewProxy(echo(t))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.Set(func(n int) storagetest.Harm { return storagetest.Harm{Refuse: n == 2} })
	for i := 1; i <= 3; i++ {
		conn, err := net.Dial("tcp", p.Addr())
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte("x"))
		_, err = io.ReadFull(conn, make([]byte, 1))
		if (err != nil) != (i == 2) {
			t.Errorf("connection %d: %v", i, err)
		}
		if i == 3 {
			p.Cut()
			if _, err := io.ReadFull(conn, make([]byte, 1)); err == nil {
				t.Error("a connection outlived Cut")
			}
		}
		conn.Close()
	}
	if up, down := p.Bytes(); p.Conns() != 3 || up != 2 || down != 2 {
		t.Errorf("%d connections, %d and %d bytes", p.Conns(), up, down)
	}
}

func TestRandomHarmRepeats(t *testing.T) {
	t.Parallel()
	a, b := storagetest.RandomHarm(5, 2, 1<<20), storagetest.RandomHarm(5, 2, 1<<20)
	harmed := 0
	for n := range 1000 {
		if a(n) != b(n) {
			t.Fatal("the same seed does other harm")
		}
		if a(n) != (storagetest.Harm{}) {
			harmed++
		}
	}
	if harmed < 300 || harmed > 600 {
		t.Errorf("%d of 1000 connections are harmed, want about half", harmed)
	}
}
