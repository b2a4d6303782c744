package local_test

import (
	"testing"

	"kassett"
	"kassett/storage/local"
)

func TestSmoke(t *testing.T) {
	s, err := local.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := []byte("hello")
	h := kassett.Handle{Kind: kassett.PackFile, ID: kassett.Hash(b)}
	if err := s.Put(t.Context(), h, kassett.BytesBody(b, h.ID)); err != nil {
		t.Fatal(err)
	}
	err = s.Put(t.Context(), h, kassett.BytesBody(b, h.ID))
	t.Log(err, kassett.KindOf(err))
	for in, err := range s.List(t.Context(), kassett.PackFile) {
		t.Log(in, err)
	}
	_, err = local.Open(s.Path())
	t.Log(err, kassett.HintOf(err))
}
