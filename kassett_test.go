package kassett_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/iotest"

	"kassett"
)

func TestIDText(t *testing.T) {
	t.Parallel()
	id := kassett.Hash([]byte("abc"))
	const want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // FIPS 180-2, B.1
	if id.String() != want || id.Short() != want[:8] {
		t.Errorf("String, Short = %s, %s", id, id.Short())
	}
	back, err := kassett.ParseID(want)
	if err != nil || back != id {
		t.Errorf("ParseID(%s) = %s, %v", want, back, err)
	}
	for _, bad := range []string{"", want[1:], want + "0", strings.ToUpper(want), strings.Replace(want, "b", "g", 1)} {
		if _, err := kassett.ParseID(bad); err == nil {
			t.Errorf("ParseID(%q): no error", bad)
		}
	}
}

func TestKindOf(t *testing.T) {
	t.Parallel()
	full := &kassett.Error{Op: "write pack", Kind: kassett.Full, Hint: "free some room"}
	for _, c := range []struct {
		err  error
		want kassett.Kind
		exit int
	}{
		{errors.New("x"), kassett.Other, 1},
		{full, kassett.Full, 6},
		{fmt.Errorf("save: %w", full), kassett.Full, 6},
		{&kassett.Error{Op: "backup", Err: full}, kassett.Full, 6},
		{&kassett.Error{Op: "backup", Kind: kassett.Incomplete, Err: full}, kassett.Incomplete, 3},
		{&fs.PathError{Err: fs.ErrNotExist}, kassett.NotFound, 10},
		{context.Canceled, kassett.Interrupted, 130},
		{&kassett.Error{Op: "read", Err: &fs.PathError{Err: fs.ErrPermission}}, kassett.Denied, 7},
	} {
		if got := kassett.KindOf(c.err); got != c.want || got.Exit() != c.exit {
			t.Errorf("KindOf(%v) = %v, exit %d; want %v, %d", c.err, got, got.Exit(), c.want, c.exit)
		}
	}
	if got := kassett.HintOf(fmt.Errorf("a: %w", &kassett.Error{Op: "b", Err: full})); got != full.Hint {
		t.Errorf("HintOf = %q", got)
	}
}

func TestCutText(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"": "content", "content": "content", "whole": "whole",
		"page=32KiB": "page=32KiB", "page=32768": "page=32KiB", "page=1MiB": "page=1MiB", "page=8MiB": "page=8MiB",
	} {
		c, err := kassett.ParseCut(in)
		if err != nil || c.String() != want {
			t.Errorf("ParseCut(%q) = %v, %v; want %s", in, c, err, want)
		}
	}
	for _, in := range []string{"page", "page=", "page=0", "page=1", "page=6000", "page=16MiB", "page=-4KiB", "page=4GiB", "page=99999999999MiB", "pages=4KiB"} {
		if c, err := kassett.ParseCut(in); kassett.KindOf(err) != kassett.Invalid || kassett.HintOf(err) == "" {
			t.Errorf("ParseCut(%q) = %v, %v; want an invalid error with a hint", in, c, err)
		}
	}
}

func TestBodyReadsTwice(t *testing.T) {
	t.Parallel()
	b := kassett.BytesBody([]byte("seal"), kassett.Hash([]byte("seal")))
	for range 2 {
		r, err := b.Open()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || string(got) != "seal" {
			t.Errorf("read %q, %v", got, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestPartsBody(t *testing.T) {
	t.Parallel()
	whole := []byte("a piece, another piece, and the last")
	body := kassett.PartsBody([][]byte{{}, whole[:7], whole[7:8], {}, whole[8:], {}}, kassett.Hash(whole))
	if body.Size != int64(len(whole)) {
		t.Errorf("size %d, want %d", body.Size, len(whole))
	}
	r, err := body.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := iotest.TestReader(r, whole); err != nil { // reads, seeks, reads
		t.Error(err)
	}
	m, ok := r.(interface {
		io.ReadSeeker
		io.WriterTo
		Len() int
	})
	if !ok {
		t.Fatal("it cannot do what bytes in memory can")
	}
	for _, at := range []int64{0, 3, 7, 8, 9, body.Size} {
		var out bytes.Buffer
		_, seekErr := m.Seek(at, io.SeekStart)
		left := m.Len()
		n, err := m.WriteTo(&out)
		if seekErr != nil || err != nil || int(n) != left || out.String() != string(whole[at:]) {
			t.Errorf("from %d: %d of %d bytes %q, errors %v, %v", at, n, left, out.String(), seekErr, err)
		}
	}
}

func TestProgressOfNobody(t *testing.T) {
	t.Parallel()
	var p *kassett.Progress
	p.Enter("x")
	p.Expect(1, 2)
	p.Done(1, 2)
	p.At("y")
	p.Stored(3)
	p.Problem()
	if p.Look() != (kassett.Look{}) {
		t.Error("a nil Progress counts")
	}
	p = new(kassett.Progress)
	p.Stored(3)
	p.Done(1, 2)
	p.Enter("next")
	p.Done(1, 5)
	if got, want := p.Look(), (kassett.Look{Stage: "next", Items: 1, Bytes: 5, Stored: 3}); got != want {
		t.Errorf("Look = %+v, want %+v", got, want)
	}
}

// plain is a storage without abilities, and able one with some.
type (
	plain struct{ kassett.Storage }
	able  struct {
		kassett.Storage
		connections int
	}
	wrap      struct{ kassett.Storage }
	wrapTwice struct{ wrap }
)

func (a able) Connections() int        { return a.connections }
func (w wrap) Unwrap() kassett.Storage { return w.Storage }
func (w wrapTwice) Connections() int   { return 7 }

func TestAs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		s    kassett.Storage
		want int // 0: not able
	}{
		"none":                           {plain{}, 0},
		"itself":                         {able{connections: 3}, 3},
		"through a wrapper":              {wrap{able{connections: 3}}, 3},
		"changed by a wrapper":           {wrapTwice{wrap{able{connections: 3}}}, 7},
		"a wrapper alone has no ability": {wrapTwice{wrap{plain{}}}, 0},
		"changed in the middle":          {wrap{wrapTwice{wrap{able{connections: 3}}}}, 7},
	} {
		got := 0
		if p, ok := kassett.As[kassett.Parallel](c.s); ok {
			got = p.Connections()
		}
		if got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
