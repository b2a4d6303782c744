package repo_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"kassett"
	"kassett/repo"
	"kassett/repo/record"
	"kassett/storage/storagetest"
)

// deaf hides what a storage can do beside its five calls.
type deaf struct{ kassett.Storage }

// add adds a record, of persons A and B unless it names others.
func add(t testing.TB, r *repo.Repository, rec record.Record) kassett.ID {
	t.Helper()
	if rec.Reason == "" {
		rec.Reason = "because"
	}
	if rec.By == nil {
		rec.By = []string{"Astrid Öberg", "Wei 张"}
	}
	id, err := r.Records().Add(t.Context(), rec)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func standing(t testing.TB, r *repo.Repository) (ids []kassett.ID) {
	t.Helper()
	all, err := r.Records().Standing(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range all {
		ids = append(ids, rec.ID)
	}
	return ids
}

var (
	everything = record.Subject{All: true}
	pacs       = record.Subject{Host: "pacs1", Paths: []string{"/srv/images"}, Tags: []string{"pacs"}}
)

func TestRecords(t *testing.T) {
	t.Parallel()
	r, st := memoryRepo(t, repo.InitOptions{})
	if all := standing(t, r); len(all) != 0 {
		t.Fatalf("a new repository has records %v", all)
	}
	at := time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
	day := func(n int) time.Time { return at.AddDate(0, 0, n) }
	floor := add(t, r, record.Record{Kind: record.Floor, Created: day(0), Subject: everything, Keep: kassett.Age{Years: 10}})
	hold := add(t, r, record.Record{Kind: record.Hold, Created: day(1), Subject: record.Subject{Snapshot: kassett.Hash([]byte("s"))}})
	until := add(t, r, record.Record{Kind: record.Hold, Created: day(2), Subject: pacs, Until: day(400)})
	retire := add(t, r, record.Record{Kind: record.Retire, Created: day(3), Subject: pacs})
	if got, want := standing(t, r), []kassett.ID{floor, hold, until, retire}; !slices.Equal(got, want) {
		t.Errorf("standing are %v, want %v", got, want)
	}
	lift := add(t, r, record.Record{Kind: record.Lift, Created: day(4), Lifts: hold})
	if got, want := standing(t, r), []kassett.ID{floor, until, retire}; !slices.Equal(got, want) {
		t.Errorf("after the lift: %v, want %v", got, want)
	}
	// Any key opens to the same records, and a new password changes nothing.
	if _, err := r.ChangePassword(t.Context(), []byte("new")); err != nil {
		t.Fatal(err)
	}
	all, err := openMemory(t, st, "new", repo.Options{}).Records().History(t.Context())
	if err != nil || len(all) != 5 || all[4].ID != lift || all[4].Lifts != hold {
		t.Fatalf("history: %+v, %v", all, err)
	}
	if rec := all[2]; rec.Subject.Host != "pacs1" || !rec.Until.Equal(day(400)) || rec.By[1] != "Wei 张" || rec.Reason != "because" {
		t.Errorf("read as %+v", rec)
	}
	if all[0].Keep != (kassett.Age{Years: 10}) {
		t.Errorf("floor of %v", all[0].Keep)
	}
	_, err = r.Records().Add(t.Context(), record.Record{Kind: record.Lift, Lifts: lift, Reason: "r", By: []string{"a", "b"}})
	wantKind(t, err, kassett.Invalid, "itself a lift")
}

func TestAddRecordRefuses(t *testing.T) {
	t.Parallel()
	r, _ := memoryRepo(t, repo.InitOptions{})
	hold := add(t, r, record.Record{Kind: record.Hold, Subject: everything})
	snapshot := record.Subject{Snapshot: kassett.Hash([]byte("s"))}
	two := []string{"a", "b"}
	for name, rec := range map[string]record.Record{
		"no kind":                   {Subject: everything, Reason: "r", By: two},
		"strange kind":              {Kind: "wish", Subject: everything, Reason: "r", By: two},
		"no subject":                {Kind: record.Hold, Reason: "r", By: two},
		"two subjects":              {Kind: record.Hold, Subject: record.Subject{All: true, Host: "h"}, Reason: "r", By: two},
		"no reason":                 {Kind: record.Hold, Subject: snapshot, Reason: " \n", By: two},
		"nobody":                    {Kind: record.Hold, Subject: snapshot, Reason: "r"},
		"empty name":                {Kind: record.Hold, Subject: snapshot, Reason: "r", By: []string{"a", " "}},
		"a crowd":                   {Kind: record.Hold, Subject: snapshot, Reason: "r", By: slices.Repeat(two, 9)},
		"hold with an age":          {Kind: record.Hold, Subject: snapshot, Keep: kassett.Age{Days: 1}, Reason: "r", By: two},
		"hold that lifts":           {Kind: record.Hold, Subject: snapshot, Lifts: hold, Reason: "r", By: two},
		"floor without end":         {Kind: record.Floor, Subject: everything, Reason: "r", By: two},
		"floor of negative age":     {Kind: record.Floor, Subject: everything, Keep: kassett.Age{Years: -1}, Reason: "r", By: two},
		"retired snapshot":          {Kind: record.Retire, Subject: snapshot, Reason: "r", By: two},
		"retired repository":        {Kind: record.Retire, Subject: everything, Reason: "r", By: two},
		"lift of nothing":           {Kind: record.Lift, Reason: "r", By: two},
		"lift of what is not there": {Kind: record.Lift, Lifts: kassett.Hash([]byte("x")), Reason: "r", By: two},
		"lift by one":               {Kind: record.Lift, Lifts: hold, Reason: "r", By: []string{"Astrid"}},
		"lift by one twice":         {Kind: record.Lift, Lifts: hold, Reason: "r", By: []string{"Astrid Öberg", " astrid  öberg"}},
		"lift with a subject":       {Kind: record.Lift, Lifts: hold, Subject: everything, Reason: "r", By: two},
		"too long":                  {Kind: record.Hold, Subject: snapshot, Reason: strings.Repeat("r", 70<<10), By: two},
		"not UTF-8":                 {Kind: record.Hold, Subject: record.Subject{Paths: []string{"/a\xff"}}, Reason: "r", By: two},
	} {
		if _, err := r.Records().Add(t.Context(), rec); kassett.KindOf(err) != kassett.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := standing(t, r); len(got) != 1 {
		t.Errorf("standing are %v", got)
	}
}

func TestRecordsNeedAPlace(t *testing.T) {
	t.Parallel()
	_, st := memoryRepo(t, repo.InitOptions{})
	r := openMemory(t, deaf{st}, password, repo.Options{})
	_, err := r.Records().Add(t.Context(), record.Record{Kind: record.Hold, Subject: everything, Reason: "r", By: []string{"a"}})
	wantKind(t, err, kassett.Invalid, "S3")
	if all := standing(t, r); len(all) != 0 {
		t.Errorf("records %v", all)
	}
}

func recordFile(id kassett.ID) string { return "records/" + id.String() + ".json" }

// besideBytes reads a file beside the repository.
func besideBytes(t testing.TB, st kassett.Beside, name string) []byte {
	t.Helper()
	rc, err := st.GetBeside(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rc.Close() }()
	var b bytes.Buffer
	if _, err := b.ReadFrom(rc); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func putBeside(t testing.TB, st kassett.Beside, name string, b []byte) {
	t.Helper()
	if err := st.PutBeside(t.Context(), name, kassett.BytesBody(b, kassett.Hash(b))); err != nil {
		t.Fatal(err)
	}
}

// Every changed or missing byte of a record is found and its file named, under
// its own name and under one made to fit.
func TestRecordDamaged(t *testing.T) {
	t.Parallel()
	r, st := memoryRepo(t, repo.InitOptions{})
	id := add(t, r, record.Record{Kind: record.Hold, Subject: everything})
	name := recordFile(id)
	good := besideBytes(t, st, name)
	if len(standing(t, r)) != 1 {
		t.Fatal("the record does not stand")
	}
	spaced := st.Clone()
	again := bytes.Replace(good, []byte(`,"signature":`), []byte(`, "signature":`), 1)
	putBeside(t, spaced, recordFile(kassett.Hash(again)), again)
	if _, err := openMemory(t, spaced, password, repo.Options{}).Records().Standing(t.Context()); kassett.KindOf(err) != kassett.Corrupt {
		t.Errorf("the same record written in another way: %v", err)
	}
	for i := range good {
		flipped, cut := slices.Clone(good), good[:i]
		flipped[i] ^= 1
		for _, bad := range [][]byte{flipped, cut} {
			broken := st.Clone()
			broken.DamageBeside(name, func([]byte) []byte { return bad })
			_, err := openMemory(t, broken, password, repo.Options{}).Records().Standing(t.Context())
			if kassett.KindOf(err) != kassett.Corrupt || !strings.Contains(err.Error(), name) {
				t.Fatalf("byte %d of %d, %d left: %v", i, len(good), len(bad), err)
			}
		}
		renamed := st.Clone()
		if err := renamed.DeleteBeside(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		putBeside(t, renamed, recordFile(kassett.Hash(flipped)), flipped)
		_, err := openMemory(t, renamed, password, repo.Options{}).Records().Standing(t.Context())
		if kassett.KindOf(err) != kassett.Corrupt || !strings.Contains(err.Error(), kassett.Hash(flipped).String()) {
			t.Fatalf("renamed, byte %d: %v", i, err)
		}
	}
}

func TestRecordForeign(t *testing.T) {
	t.Parallel()
	r, st := memoryRepo(t, repo.InitOptions{})
	add(t, r, record.Record{Kind: record.Hold, Subject: everything})
	other, otherSt := memoryRepo(t, repo.InitOptions{})
	id := add(t, other, record.Record{Kind: record.Floor, Subject: everything, Keep: kassett.Age{Years: 1}})
	putBeside(t, st, recordFile(id), besideBytes(t, otherSt, recordFile(id)))
	_, err := r.Records().Standing(t.Context())
	wantKind(t, err, kassett.Corrupt, recordFile(id), "another repository")

	strange := otherSt.Clone()
	putBeside(t, strange, "records/hold.json", []byte("{}\n"))
	_, err = openMemory(t, strange, password, repo.Options{}).Records().Standing(t.Context())
	wantKind(t, err, kassett.Corrupt, "records/hold.json")

	pinned := otherSt.Clone()
	pinned.DamageBeside("records/signer", func([]byte) []byte { return besideBytes(t, st, "records/signer") })
	_, err = openMemory(t, pinned, password, repo.Options{}).Records().Standing(t.Context())
	wantKind(t, err, kassett.Corrupt, "records/signer")
	_, err = openMemory(t, pinned, password, repo.Options{}).Records().Add(t.Context(), record.Record{Kind: record.Hold, Subject: everything, Reason: "r", By: []string{"a"}})
	wantKind(t, err, kassett.Corrupt, "records/signer")
}

// A record that was taken away is missed by those that came after it, until two
// persons say that they know.
func TestRecordTakenAway(t *testing.T) {
	t.Parallel()
	r, st := memoryRepo(t, repo.InitOptions{})
	first := add(t, r, record.Record{Kind: record.Hold, Subject: everything})
	second := add(t, r, record.Record{Kind: record.Hold, Subject: pacs})
	if err := st.DeleteBeside(t.Context(), recordFile(first)); err != nil {
		t.Fatal(err)
	}
	_, err := r.Records().Standing(t.Context())
	wantKind(t, err, kassett.Corrupt, recordFile(first), "gone", "two persons")
	if all, err := r.Records().History(t.Context()); len(all) != 1 || err == nil {
		t.Errorf("history: %v, %v", all, err)
	}
	// Protecting more is always possible.
	third := add(t, r, record.Record{Kind: record.Hold, Subject: everything})
	add(t, r, record.Record{Kind: record.Lift, Lifts: first})
	if got := standing(t, r); len(got) != 2 || !slices.Contains(got, second) || !slices.Contains(got, third) {
		t.Errorf("standing are %v", got)
	}
	// So is lifting a damaged one.
	st.DamageBeside(recordFile(second), func(b []byte) []byte { return b[:10] })
	_, err = r.Records().Standing(t.Context())
	wantKind(t, err, kassett.Corrupt, recordFile(second))
	add(t, r, record.Record{Kind: record.Lift, Lifts: second})
	if got := standing(t, r); !slices.Equal(got, []kassett.ID{third}) {
		t.Errorf("standing are %v", got)
	}
}

// A server that only holds the storage verifies with records/signer, by nothing
// but Ed25519 over the first line.
func TestRecordVerifiesWithoutTheKey(t *testing.T) {
	t.Parallel()
	r, st := memoryRepo(t, repo.InitOptions{})
	id := add(t, r, record.Record{Kind: record.Hold, Subject: everything})
	var pinned struct {
		Format     string `json:"kassett"`
		Repository string
		Ed25519    []byte
	}
	if err := json.Unmarshal(besideBytes(t, st, "records/signer"), &pinned); err != nil {
		t.Fatal(err)
	}
	if pinned.Format != "signer/1" || pinned.Repository != r.Config().ID {
		t.Errorf("signer is %+v", pinned)
	}
	payload, seal, _ := bytes.Cut(besideBytes(t, st, recordFile(id)), []byte("\n"))
	var second struct{ Ed25519, Signature []byte }
	if err := json.Unmarshal(seal, &second); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(pinned.Ed25519, second.Ed25519) || !ed25519.Verify(pinned.Ed25519, append(payload, '\n'), second.Signature) {
		t.Error("the record does not verify with the pinned key")
	}
}

// Whatever call fails, a record is there whole or not at all, and the next
// attempt works.
func TestAddRecordFailing(t *testing.T) {
	t.Parallel()
	for n := 1; n < 12; n++ {
		for _, after := range []bool{false, true} {
			base, mem := memoryRepo(t, repo.InitOptions{})
			add(t, base, record.Record{Kind: record.Hold, Subject: pacs})
			armed, calls := false, 0
			st := storagetest.NewFailing(mem, func(storagetest.Call) *storagetest.Fault {
				if armed {
					calls++
				}
				if armed && calls == n {
					return &storagetest.Fault{Err: storagetest.ErrInjected, After: after}
				}
				return nil
			})
			r := openMemory(t, st, password, repo.Options{Connections: 1})
			armed = true
			rec := record.Record{Kind: record.Hold, Subject: everything, Reason: "r", By: []string{"a"}}
			_, err := r.Records().Add(t.Context(), rec)
			armed = false
			if got := len(standing(t, base)); err == nil && got != 2 || err != nil && got > 1 && !after {
				t.Errorf("call %d failed (after: %v) with %v: %d records", n, after, err, got)
			}
			if _, err := r.Records().Add(t.Context(), rec); err != nil {
				t.Errorf("after call %d failed: %v", n, err)
			}
		}
	}
}
