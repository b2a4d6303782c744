package repo

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"kassett"
	"kassett/repo/seal"
)

// fixedKey is a master key that is the same in every run, for seeds.
func fixedKey(t testing.TB) *seal.Key {
	t.Helper()
	secret := make([]byte, seal.KeySize)
	for i := range secret {
		secret[i] = byte(i + 1)
	}
	k, err := seal.NewKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const (
	configID     = "7f2b7c2f1d0c4a1e8f4b9a3d5c6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f80"
	goodConfig   = `{"version":2,"id":"` + configID + `","chunker_polynomial":"3DA3358B4DC173"}`
	configWithID = `{"version":2,"id":%q,"chunker_polynomial":"3DA3358B4DC173"}`
)

func TestDecodeConfig(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, json string
		kind       kassett.Kind // Other: good
		word       string
	}{
		{"version 2", goodConfig, kassett.Other, ""},
		{"version 1", strings.Replace(goodConfig, "2", "1", 1), kassett.Other, ""},
		{"unknown field", strings.Replace(goodConfig, "{", `{"colour":"red",`, 1), kassett.Other, ""},
		{"version 3", strings.Replace(goodConfig, "2", "3", 1), kassett.Invalid, "version 3"},
		{"version 0", strings.Replace(goodConfig, "2", "0", 1), kassett.Invalid, "version 0"},
		{"no version", `{"id":"` + configID + `"}`, kassett.Invalid, ""},
		{"negative version", strings.Replace(goodConfig, "2", "-2", 1), kassett.Corrupt, ""},
		{"no JSON", "\x02abc", kassett.Corrupt, ""},
		{"empty", "", kassett.Corrupt, ""},
		{"ID a path", fmt.Sprintf(configWithID, "../../../../etc"), kassett.Corrupt, "id"},
		{"ID upper case", fmt.Sprintf(configWithID, strings.ToUpper(configID)), kassett.Corrupt, "id"},
		{"polynomial reducible", strings.Replace(goodConfig, "173", "172", 1), kassett.Corrupt, "irreducible"},
		{"polynomial of degree 2", strings.Replace(goodConfig, "3DA3358B4DC173", "7", 1), kassett.Corrupt, "degree"},
		{"polynomial missing", `{"version":2,"id":"` + configID + `"}`, kassett.Corrupt, "irreducible"},
		{"polynomial no number", strings.Replace(goodConfig, "3DA", "xyz", 1), kassett.Corrupt, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg, err := decodeConfig([]byte(c.json))
			if kassett.KindOf(err) != c.kind || (c.kind == kassett.Other) != (err == nil) {
				t.Fatalf("%v, want the kind %v", err, c.kind)
			}
			if err == nil && (cfg.ID != configID || cfg.ChunkerPolynomial != 0x3DA3358B4DC173) {
				t.Errorf("read as %+v", cfg)
			}
			if err != nil && !strings.Contains(err.Error(), c.word) {
				t.Errorf("%v does not speak of %q", err, c.word)
			}
			if c.name == "version 3" && !strings.Contains(kassett.HintOf(err), "newer") {
				t.Errorf("hint is %q", kassett.HintOf(err))
			}
		})
	}
}

func TestUpgradeConfigKeepsWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	old := `{"version":1,"id":"` + configID + `","chunker_polynomial":"3DA3358B4DC173","colour":{"b":1,"a":12345678901234567890}}`
	_, next, err := upgradeConfig([]byte(old))
	if err != nil {
		t.Fatal(err)
	}
	var want, have map[string]json.RawMessage
	if err := json.Unmarshal([]byte(old), &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(next, &have); err != nil {
		t.Fatal(err)
	}
	want["version"] = json.RawMessage("2")
	if diff := cmp.Diff(want, have); diff != "" {
		t.Error(diff)
	}
	if _, _, err := upgradeConfig([]byte("[]")); kassett.KindOf(err) != kassett.Corrupt {
		t.Errorf("upgraded a list: %v", err)
	}
}

// zipped is an unpacked file of version 2 before it is sealed.
func zipped(t testing.TB, plain []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(plain, []byte{zstdMark})
}

func TestOpenUnpacked(t *testing.T) {
	t.Parallel()
	r := &Repository{key: fixedKey(t)}
	t.Cleanup(r.codec.close)
	big := bytes.Repeat([]byte("{}  "), 1<<19) // 2 MiB: more than any lock
	for _, c := range []struct {
		name string
		body []byte
		word string // "" = opens
	}{
		{"raw object", []byte(`{"a":1}`), ""},
		{"raw list", []byte(`["a"]`), ""},
		{"compressed", zipped(t, []byte(`{"a":1}`)), ""},
		{"nothing", nil, "empty"},
		{"other first byte", []byte("\x01{}"), "0x01"},
		{"space first", []byte(` {"a":1}`), "0x20"},
		{"only the mark", []byte{zstdMark}, "decompress"},
		{"no frame", []byte("\x02hello, this is no frame"), "decompress"},
		{"frame cut", zipped(t, []byte(`{"a":1}`))[:10], "decompress"},
		{"bomb", zipped(t, big), "more than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			plain, err := r.openUnpacked(kassett.LockFile, r.key.Seal(nil, c.body))
			if c.word == "" && (err != nil || !json.Valid(plain)) || c.word != "" && (err == nil || !strings.Contains(err.Error(), c.word)) {
				t.Errorf("%q, %v; want an error with %q", plain, err, c.word)
			}
		})
	}
}

// A bomb that claims no length: frames end to end.
func TestOpenUnpackedBombWithoutLength(t *testing.T) {
	t.Parallel()
	r := &Repository{key: fixedKey(t)}
	t.Cleanup(r.codec.close)
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	b.WriteByte(zstdMark)
	w.Reset(&b)
	for range 64 {
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.openUnpacked(kassett.LockFile, r.key.Seal(nil, b.Bytes())); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a lock of 64 MiB: %v", err)
	}
}

func TestLockIsRestics(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 22, 3, 0, 0, 5, time.FixedZone("", 3600))
	f := lockFile{Time: at, Exclusive: true, Hostname: "pacs1", Username: "root", PID: 42, GID: 7}
	b, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"time":"2026-11-22T03:00:00.000000005+01:00","exclusive":true,"hostname":"pacs1","username":"root","pid":42,"gid":7}`
	if string(b) != want {
		t.Errorf("lock is %s,\nwant    %s", b, want)
	}
	if got, err := decodeLock(b); err != nil || !got.Time.Equal(at) || got.PID != 42 {
		t.Errorf("read as %+v, %v", got, err)
	}
}

func FuzzDecodeConfig(f *testing.F) {
	f.Add([]byte(goodConfig))
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if cfg, err := decodeConfig(b); err == nil {
			again, err := json.Marshal(cfg)
			if back, err2 := decodeConfig(again); err != nil || err2 != nil || back != cfg {
				t.Fatalf("%+v is written as %s: %v, %v", cfg, again, err, err2)
			}
		}
		if cfg, next, err := upgradeConfig(b); err == nil && (cfg.Version != 2 || !json.Valid(next)) {
			t.Fatalf("upgraded to %s", next)
		}
	})
}

func FuzzDecodeKeyFile(f *testing.F) {
	f.Add([]byte(`{"created":"2026-11-22T03:00:00Z","username":"u","hostname":"h","kdf":"scrypt","N":16,"r":1,"p":1,"salt":"` +
		strings.Repeat("QUFB", 21) + `QQ==","data":"` + strings.Repeat("QUFB", 40) + `"}`))
	f.Add([]byte(`{"kdf":"scrypt","N":1073741824,"r":8,"p":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := decodeKeyFile(b)
		if err != nil {
			return
		}
		if c := k.cost(); c.N*c.R*c.P > maxScryptWork || 128*c.R*(c.N+c.P) > maxScryptMemory {
			t.Fatalf("accepted the cost %+v", c)
		}
		if len(k.Salt) != saltSize || len(k.Data) < Overhead {
			t.Fatalf("accepted a salt of %d bytes and %d bytes of data", len(k.Salt), len(k.Data))
		}
		if k.N*k.R*k.P < 1<<10 {
			if _, err := k.unlock([]byte("password")); err == nil {
				t.Fatal("a made-up key opens")
			}
		}
	})
}

func FuzzDecodeLock(f *testing.F) {
	f.Add([]byte(`{"time":"2026-11-22T03:00:00+01:00","exclusive":true,"hostname":"h","username":"u","pid":42,"uid":1,"gid":7}`))
	f.Add([]byte(`{"time":"9999-12-31T23:59:59Z","pid":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := decodeLock(b)
		if err != nil {
			return
		}
		_ = l.stale(time.Now(), "h", 1)
		again, err := json.Marshal(&l)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeLock(again); err != nil || !back.Time.Equal(l.Time) || back.PID != l.PID || back.Exclusive != l.Exclusive {
			t.Fatalf("%+v is written as %s: %v", l, again, err)
		}
	})
}

func FuzzOpenUnpacked(f *testing.F) {
	r := &Repository{key: fixedKey(f)}
	f.Cleanup(r.codec.close)
	f.Add([]byte(`{"a":1}`), false)
	f.Add(zipped(f, []byte(`{"a":1}`)), false)
	f.Add(r.key.Seal(nil, []byte(`{"a":1}`)), true)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		if !sealed {
			b = r.key.Seal(nil, b)
		}
		plain, err := r.openUnpacked(kassett.LockFile, b)
		if err == nil && int64(len(plain)) > unpackedLimit(kassett.LockFile) {
			t.Fatalf("opened to %d bytes", len(plain))
		}
	})
}
