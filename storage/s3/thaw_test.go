package s3_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"kassett"
	"kassett/storage/s3/s3test"
	"kassett/storage/storagetest"
)

// glacier answers for objects in a cold class as Amazon documents it, since the
// real server of the tests has no such class:
// https://docs.aws.amazon.com/AmazonS3/latest/API/API_RestoreObject.html,
// .../API_HeadObject.html (x-amz-restore, x-amz-storage-class) and
// .../API_GetObject.html (InvalidObjectState). All else is the real server's.
type glacier struct {
	*front
	mu     sync.Mutex
	asked  map[string]string // by path: the request's body
	looks  map[string]int    // heads since then
	class  string
	after  int                 // heads until it is thawed
	cold   func(string) bool   // by path
	posted map[string]struct{} // storage classes of puts, by path and class
}

func (g *glacier) harm(w http.ResponseWriter, r *http.Request) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	path := r.URL.Path
	if r.Method == http.MethodPut {
		g.posted[path+" "+r.Header.Get("x-amz-storage-class")] = struct{}{}
	}
	if !g.cold(path) {
		return false
	}
	_, asked := g.asked[path]
	thawed := asked && g.looks[path] >= g.after
	switch {
	case r.Method == http.MethodPost && r.URL.Query().Has("restore"):
		if asked && !thawed {
			return answer(409, "RestoreAlreadyInProgress")(w, r)
		}
		b, _ := io.ReadAll(r.Body)
		g.asked[path] = string(b)
		w.WriteHeader(http.StatusAccepted)
		return true
	case r.Method == http.MethodGet && !thawed:
		return answer(403, "InvalidObjectState")(w, r)
	case r.Method == http.MethodHead:
		w.Header().Set("x-amz-storage-class", g.class)
		if asked {
			g.looks[path]++
			if state := `ongoing-request="true"`; !thawed {
				w.Header().Set("x-amz-restore", state)
			} else {
				w.Header().Set("x-amz-restore", fmt.Sprintf(`ongoing-request="false", expiry-date="%s"`, time.Now().Add(48*time.Hour).UTC().Format(http.TimeFormat)))
			}
		}
	}
	return false
}

// TestThaw reads packs of a cold class: not without leave; with it they are
// asked for once each, waited for, and read.
func TestThaw(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	g := &glacier{
		front: newFront(t, server), class: "DEEP_ARCHIVE", after: 3,
		asked: map[string]string{}, looks: map[string]int{}, posted: map[string]struct{}{},
		cold: func(string) bool { return false },
	}
	g.set(g.harm)
	o := g.options(t, server, server.Bucket(t, false))
	o.StorageClass = "DEEP_ARCHIVE"
	s := open(t, o)

	var packs []kassett.ID
	for i := range 5 {
		h, b := body(storagetest.Random(uint64(i), 1000))
		if b.Hot = i == 4; true {
			if err := s.Put(t.Context(), h, b); err != nil {
				t.Fatal(err)
			}
		}
		packs = append(packs, h.ID)
	}
	index := kassett.Handle{Kind: kassett.IndexFile, ID: packs[0]}
	if err := s.Put(t.Context(), index, kassett.BytesBody(storagetest.Random(0, 1000), packs[0])); err != nil {
		t.Fatal(err)
	}
	for key := range g.posted {
		path, class, _ := strings.Cut(key, " ")
		hot := !strings.Contains(path, "/data/") || strings.HasSuffix(path, packs[4].String())
		if hot != (class == "") {
			t.Errorf("%s was put in the class %q", path, class)
		}
	}
	g.cold = func(path string) bool {
		return strings.Contains(path, "/data/") && !strings.HasSuffix(path, packs[4].String())
	}

	// Without leave nothing is asked for, and reading says what to do.
	if err := s.Thaw(t.Context(), packs, nil); err != nil {
		t.Fatal(err)
	}
	_, err := s.Get(t.Context(), kassett.Handle{Kind: kassett.PackFile, ID: packs[0]}, 0, -1)
	if kassett.KindOf(err) != kassett.Denied || !strings.Contains(kassett.HintOf(err), "s3.enable-restore=true") || len(g.asked) > 0 {
		t.Errorf("Get of a cold pack: %v (%s)", err, kassett.HintOf(err))
	}

	o.Thaw.On, o.Thaw.Days, o.Thaw.Tier = true, 3, "Bulk"
	o.Thaw.Timeout = 10 * time.Millisecond
	s = open(t, o)
	s.SetPoll(time.Hour)
	err = s.Thaw(t.Context(), packs, nil)
	if kassett.KindOf(err) != kassett.Offline || !strings.Contains(kassett.HintOf(err), "again in some hours") || len(g.asked) != 4 {
		t.Errorf("Thaw that cannot wait: %v, asked for %d", err, len(g.asked))
	}
	for path, req := range g.asked {
		if !strings.Contains(req, "<Days>3</Days>") || !strings.Contains(req, "<Tier>Bulk</Tier>") {
			t.Errorf("%s was asked for with %s", path, req)
		}
	}

	o.Thaw.Timeout = time.Hour
	s = open(t, o)
	s.SetPoll(time.Millisecond)
	ctx, stop := context.WithCancel(t.Context())
	if err := s.Thaw(ctx, append(packs, kassett.ID{1}), func(int) { stop() }); kassett.KindOf(err) != kassett.Interrupted {
		t.Errorf("Thaw that is stopped: %v", err)
	}
	stop()
	waited := 0
	if err := s.Thaw(t.Context(), append(packs, kassett.ID{1}), func(n int) { waited += n }); err != nil || waited == 0 {
		t.Errorf("Thaw = %v, told of %d", err, waited)
	}
	for _, id := range packs {
		if err := calls["get"](t.Context(), s, kassett.Handle{Kind: kassett.PackFile, ID: id}); err != nil {
			t.Error(err)
		}
	}
}
