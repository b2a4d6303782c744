package record

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"kassett"
)

// FuzzDecodeRecord signs what the fuzzer makes up, too: whoever can open a
// repository can sign nonsense.
func FuzzDecodeRecord(f *testing.F) {
	const repository = "5956a3f67a6230d4a92cefb29529f10196c7d92582ec305fd71ff6d331d6271b"
	s := newSigner(repository, bytes.Repeat([]byte{7}, 32))
	line, err := json.Marshal(payload{
		Format: format, Repository: repository, After: []kassett.ID{{1}}, Nonce: "00", // fixed: the fuzzer has several processes
		Record: Record{Kind: Hold, Created: time.Unix(1700000000, 0).UTC(), Subject: Subject{All: true}, Reason: "r", By: []string{"a"}},
	})
	if err != nil {
		f.Fatal(err)
	}
	good := s.sign(append(line, '\n'))
	f.Add(good)
	f.Add(good[:bytes.IndexByte(good, '\n')])
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := s.decode(b); err == nil && !bytes.Equal(b, good) {
			t.Fatalf("a made-up record is believed: %+v", p)
		}
		b, _, _ = bytes.Cut(b, []byte("\n"))
		p, err := s.decode(s.sign(append(slices.Clone(b), '\n')))
		if err != nil {
			return
		}
		if err := p.check(); err != nil || p.Repository != repository {
			t.Fatalf("accepted %+v: %v", p, err)
		}
	})
}
