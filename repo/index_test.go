package repo

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"kassett"
)

// decodeIndex decodes an index file and calls fn for each pack.
func decodeIndex(data []byte, fn func(pack kassett.ID, blobs []Blob)) error {
	var c indexContent
	if err := c.decode(data); err != nil {
		return err
	}
	for id, blobs := range c.all() {
		fn(id, blobs)
	}
	return nil
}

func TestIndexGolden(t *testing.T) {
	t.Parallel()
	// As restic 0.14 writes it, but for its order of fields that it shares.
	want := fmt.Sprintf(`{"packs":[`+
		`{"id":"%[1]s","blobs":[`+
		`{"id":"%[2]s","type":"data","offset":0,"length":38},`+
		`{"id":"%[3]s","type":"tree","offset":38,"length":112,"uncompressed_length":511}]},`+
		`{"id":"%[3]s","blobs":[`+
		`{"id":"%[1]s","type":"tree","offset":150,"length":123}]}]}`, idA, idB, idC)
	packs := []indexedPack{
		{idA, []Blob{
			testBlob(DataBlob, idB, 0, 38, 0),
			testBlob(TreeBlob, idC, 38, 112, 511),
		}},
		{idC, []Blob{testBlob(TreeBlob, idA, 150, 123, 0)}},
	}
	var b indexBuilder
	for _, p := range packs {
		b.add(p)
	}
	got := b.bytes()
	if string(got) != want {
		t.Errorf("index\n%s\nwant\n%s", got, want)
	}
	var back []indexedPack
	err := decodeIndex(got, func(id kassett.ID, blobs []Blob) {
		back = append(back, indexedPack{id, slices.Clone(blobs)})
	})
	if err != nil || !reflect.DeepEqual(back, packs) {
		t.Errorf("decodeIndex = %v, %v", back, err)
	}
	var c indexContent
	if !c.scan(got) {
		t.Error("our own index does not go the fast way")
	}
}

// indexOf returns an index of one pack, with the given parts of a blob put in.
func indexOf(blob string) []byte {
	return fmt.Appendf(nil, `{"packs":[{"id":"%s","blobs":[%s]}]}`, idA, blob)
}

func TestIndexForeign(t *testing.T) {
	t.Parallel()
	blob := fmt.Sprintf(`{"id":"%s","type":"data","offset":1,"length":40}`, idB)
	want := []Blob{testBlob(DataBlob, idB, 1, 40, 0)}
	for _, c := range []struct {
		name, json string
	}{
		{"spaces", strings.ReplaceAll(string(indexOf(blob)), ":", " :\n ")},
		{"supersedes", fmt.Sprintf(`{"supersedes":["%s"],"packs":[{"id":"%s","blobs":[%s]}]}`, idC, idA, blob)},
		{"unknown fields", fmt.Sprintf(`{"x":[{}],"packs":[{"y":1,"id":"%s","blobs":[%s]}],"packs_to_delete":[]}`, idA, blob)},
		{"other order", fmt.Sprintf(`{"packs":[{"blobs":[{"length":40,"offset":1,"id":"%s","type":"data"}],"id":"%s"}]}`, idB, idA)},
		{"length 0 for uncompressed", string(indexOf(strings.Replace(blob, "}", `,"uncompressed_length":0}`, 1)))},
		{"newline at the end", string(indexOf(blob)) + "\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := 0
			err := decodeIndex([]byte(c.json), func(id kassett.ID, blobs []Blob) {
				n++
				if id != idA || !slices.Equal(blobs, want) {
					t.Errorf("%s: %v", id, blobs)
				}
			})
			if err != nil || n != 1 {
				t.Errorf("%d packs, %v", n, err)
			}
		})
	}
	for _, empty := range []string{`{"packs":[]}`, `{"packs":null}`, `{}`} {
		if err := decodeIndex([]byte(empty), nil); err != nil {
			t.Errorf("%s: %v", empty, err)
		}
	}
}

func TestIndexRefused(t *testing.T) {
	t.Parallel()
	entry := func(id kassett.ID, typ, rest string) []byte {
		return indexOf(fmt.Sprintf(`{"id":"%s","type":"%s",%s}`, id, typ, rest))
	}
	good := entry(idB, "data", `"offset":1,"length":40`)
	for _, c := range []struct {
		name string
		json []byte
		want string
	}{
		{"cut", good[:len(good)-1], "unexpected end"},
		{"something behind", append(bytes.Clone(good), '}'), "after top-level"},
		{"array", []byte("[]"), "array"},
		{"unknown type", entry(idB, "dato", `"offset":1,"length":40`), "unknown type"},
		{"type left out", indexOf(fmt.Sprintf(`{"id":"%s","offset":1,"length":40}`, idB)), "unknown type"},
		{"zero blob", entry(kassett.ID{}, "data", `"offset":1,"length":40`), "zero"},
		{"zero pack", bytes.ReplaceAll(good, []byte(idA.String()), []byte(kassett.ID{}.String())), "zero"},
		{"upper case id", bytes.ToUpper(good), "hex"},
		{"short", entry(idB, "data", `"offset":1,"length":31`), "at least 32"},
		{"negative offset", entry(idB, "data", `"offset":-1,"length":40`), "-1"},
		{"offset over 32 bits", entry(idB, "data", `"offset":4294967296,"length":40`), "4294967296"},
		{"end over 4 GiB", entry(idB, "data", `"offset":4294967290,"length":40`), "4 GiB"},
		{"fraction", entry(idB, "data", `"offset":1.5,"length":40`), "1.5"},
		{"leading zero", entry(idB, "data", `"offset":01,"length":40`), "invalid character"},
		{"compressed to nothing", entry(idB, "data", `"offset":1,"length":32,"uncompressed_length":5`), "compressed to nothing"},
		{"pack named twice", fmt.Appendf(nil, `{"packs":[{"id":"%[1]s","blobs":[]},{"id":"%[1]s","blobs":[]}]}`, idA), "twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := decodeIndex(c.json, func(kassett.ID, []Blob) {
				t.Error("something was given out of a file that cannot be right")
			})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want an error with %q", err, c.want)
			}
		})
	}
}

// FuzzDecodeIndex holds the fast way against encoding/json.
func FuzzDecodeIndex(f *testing.F) {
	f.Add(indexOf(fmt.Sprintf(`{"id":"%s","type":"data","offset":1,"length":40}`, idB)))
	f.Add(indexOf(fmt.Sprintf(`{"id":"%s","type":"tree","offset":0,"length":4294967295,"uncompressed_length":7},{"id":"%s","type":"tree","offset":10,"length":42}`, idB, idC)))
	f.Add([]byte(`{"packs":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var fast, slow indexContent
		if fast.scan(data) {
			if err := slow.parse(data); err != nil {
				t.Fatalf("the fast way takes what encoding/json does not: %v", err)
			}
			if !slices.Equal(fast.packs, slow.packs) || !slices.Equal(fast.blobs, slow.blobs) {
				t.Fatalf("fast %v\nslow %v", fast, slow)
			}
		}
		var c indexContent
		if c.decode(data) != nil {
			return
		}
		var b indexBuilder
		for id, blobs := range c.all() {
			b.add(indexedPack{id, slices.Clone(blobs)})
		}
		if len(b.packs) == 0 {
			return
		}
		var again indexContent
		if err := again.decode(b.bytes()); err != nil || !slices.Equal(again.packs, c.packs) || !slices.Equal(again.blobs, c.blobs) {
			t.Fatalf("encoded and decoded again: %v, %v; was %v", again, err, c)
		}
	})
}

func TestIndexFull(t *testing.T) {
	t.Parallel()
	pack := func(n int) indexedPack { return indexedPack{idA, make([]Blob, n)} }
	var b indexBuilder
	if b.full(10 * indexBlobs) {
		t.Error("full while empty: a pack with very many blobs would never get into an index")
	}
	b.add(pack(indexBlobs / 2))
	if b.full(10) {
		t.Error("full when half full")
	}
	if !b.full(indexBlobs/2 + 1) {
		t.Error("not full though there would be too many blobs")
	}
	b.since = time.Now().Add(-indexAge)
	if !b.full(1) {
		t.Error("not full though it is old")
	}
}
