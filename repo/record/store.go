package record

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"kassett"
)

const (
	// Folder holds all records of a repository, beside it.
	Folder = "records"
	// Suffix is what the name of a record ends with, after its ID.
	Suffix     = ".json"
	signerName = "records/signer"
)

// maxAfter bounds how many records one record names.
const maxAfter = 64

// signed is the file records/signer: the public key that records are
// verified with by those who cannot open the repository.
type signed struct {
	Format     string `json:"kassett"` // "signer/1"
	Repository string `json:"repository"`
	Signer     []byte `json:"ed25519"`
}

// Store is the records of one repository, for those who can open it. Its methods
// are safe for many goroutines.
type Store struct {
	// Storage is where the repository rests.
	Storage kassett.Storage
	// Repository is the ID in its config.
	Repository string
	// Secret are 32 bytes that everyone has who can open the repository, and
	// nobody else: the seed of the signing key.
	Secret []byte
	// Connections is how many records are read side by side.
	Connections int
	// Pass, if not nil, is asked right before a record is written.
	Pass func(context.Context) error
}

// Add signs and stores a record and returns its ID. Created is filled in when
// zero. A lift must name a record that is there, or one that is damaged or gone:
// then it says that two persons know. Errors are [kassett.Invalid] when the
// record makes no sense or the storage has no place for it.
func (t *Store) Add(ctx context.Context, rec Record) (kassett.ID, error) {
	invalid := func(err error, hint string) error {
		return &kassett.Error{Op: "add record", What: string(rec.Kind), Kind: kassett.Invalid, Err: err, Hint: hint}
	}
	beside, ok := kassett.As[kassett.Beside](t.Storage)
	if !ok {
		return kassett.ID{}, invalid(errors.New("this storage keeps no files beside a repository"),
			"keep the repository on storage that does: a folder or an S3 bucket")
	}
	if rec.Created.IsZero() {
		rec.Created = time.Now().UTC().Truncate(time.Second)
	}
	if err := rec.check(); err != nil {
		return kassett.ID{}, invalid(err, "")
	}
	book, err := t.read(ctx)
	if err != nil {
		return kassett.ID{}, err
	}
	if rec.Kind == Lift {
		if err := book.mayLift(rec.Lifts); err != nil {
			return kassett.ID{}, invalid(err, "list the records with their IDs")
		}
	}
	s := newSigner(t.Repository, t.Secret)
	file, err := s.encode(rec, book.heads())
	if err != nil {
		return kassett.ID{}, fmt.Errorf("sign record: %w", err)
	}
	if _, err := s.decode(file); err != nil { // too long, above all
		return kassett.ID{}, invalid(err, "")
	}
	if t.Pass != nil {
		if err := t.Pass(ctx); err != nil {
			return kassett.ID{}, err
		}
	}
	if err := pinSigner(ctx, beside, s); err != nil {
		return kassett.ID{}, err
	}
	id := kassett.Hash(file)
	name := fileName(id)
	if err := beside.PutBeside(ctx, name, kassett.BytesBody(file, id)); err != nil {
		return kassett.ID{}, fmt.Errorf("write %s: %w", name, err)
	}
	return id, nil
}

func fileName(id kassett.ID) string { return Folder + "/" + id.String() + Suffix }

// Standing returns the records that stand: verified, oldest first, without lifts
// and what they lifted, but with those whose date has passed. A record that was
// changed, cut, taken away or brought from elsewhere is a [kassett.Corrupt]
// error that names its file, and nothing must be forgotten then. Storage that
// keeps no files beside a repository has none.
func (t *Store) Standing(ctx context.Context) ([]Record, error) {
	book, err := t.read(ctx)
	if err != nil {
		return nil, err
	}
	if err := book.trouble(); err != nil {
		return nil, err
	}
	return book.standing(), nil
}

// History returns every record that can be verified, oldest first, lifts and
// lifted ones too. What [Store.Standing] would refuse is in the error, beside
// the records.
func (t *Store) History(ctx context.Context) ([]Record, error) {
	book, err := t.read(ctx)
	if err != nil {
		return nil, err
	}
	return book.sorted(), book.trouble()
}

// book is all that was found below records/.
type book struct {
	good   map[kassett.ID]*payload
	bad    map[kassett.ID]error // damaged, or named by others and gone
	pinned error                // what is wrong with records/signer
}

// read reads all records. Its error is that they could not be looked at.
func (t *Store) read(ctx context.Context) (*book, error) {
	beside, ok := kassett.As[kassett.Beside](t.Storage)
	if !ok {
		return &book{}, nil
	}
	return readBook(ctx, beside, newSigner(t.Repository, t.Secret).verifier, t.Connections)
}

// readBook reads the records beside a repository, with so many calls side by
// side.
func readBook(ctx context.Context, beside kassett.Beside, v verifier, connections int) (*book, error) {
	book := &book{good: make(map[kassett.ID]*payload), bad: make(map[kassett.ID]error)}
	var ids []kassett.ID
	for info, err := range beside.ListBeside(ctx, Folder) {
		if err != nil {
			return nil, fmt.Errorf("list records: %w", err)
		}
		name, isRecord := strings.CutSuffix(strings.TrimPrefix(info.Name, Folder+"/"), Suffix)
		if info.Name == signerName || !isRecord {
			continue
		}
		id, err := kassett.ParseID(name)
		if err != nil {
			// A record under a wrong name; the ID it has here is only
			// to tell it from others.
			book.bad[kassett.Hash([]byte(info.Name))] = bad(info.Name, err)
			continue
		}
		ids = append(ids, id)
	}
	found := make([]*payload, len(ids))
	faults := make([]error, len(ids))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(connections)
	for i, id := range ids {
		g.Go(func() (err error) {
			found[i], faults[i], err = readRecord(gctx, beside, v, id)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i, id := range ids {
		if faults[i] != nil {
			book.bad[id] = faults[i]
		} else {
			book.good[id] = found[i]
		}
	}
	if len(ids) > 0 {
		if err := checkSigner(ctx, beside, v); kassett.KindOf(err) == kassett.Corrupt {
			book.pinned = err
		} else if err != nil {
			return nil, err
		}
	}
	book.judge()
	return book, nil
}

// readRecord returns the record, or what is wrong with it, or that it could not
// be looked at.
func readRecord(ctx context.Context, beside kassett.Beside, v verifier, id kassett.ID) (p *payload, fault, err error) {
	name := fileName(id)
	file, err := kassett.ReadBeside(ctx, beside, name, maxSize)
	switch kassett.KindOf(err) {
	case kassett.NotFound: // taken away since it was listed
		return nil, bad(name, errors.New("it is gone")), nil
	case kassett.Corrupt:
		return nil, bad(name, err), nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", name, err)
	}
	if sum := kassett.Hash(file); sum != id {
		return nil, bad(name, fmt.Errorf("its bytes have the hash %s", sum)), nil
	}
	p, err = v.decode(file)
	if err != nil {
		return nil, bad(name, err), nil
	}
	return p, nil, nil
}

// judge finds the records that are gone although others name them, and forgets
// the faults of those that a lift names.
func (b *book) judge() {
	for _, p := range b.good {
		for _, id := range p.After {
			if b.good[id] == nil && b.bad[id] == nil {
				b.bad[id] = bad(fileName(id), fmt.Errorf("it is gone, but record %s came after it", p.ID.Short()))
			}
		}
	}
	for _, p := range b.good {
		if p.Kind == Lift {
			delete(b.bad, p.Lifts)
		}
	}
}

// trouble returns everything that is wrong, or nil.
func (b *book) trouble() error {
	const most = 20 // of a thousand faults the first tell enough
	faults := []error{b.pinned}
	for _, id := range slices.SortedFunc(maps.Keys(b.bad), kassett.ID.Compare) {
		if faults = append(faults, b.bad[id]); len(faults) > most {
			break
		}
	}
	return errors.Join(faults...)
}

// sorted returns the good records, oldest first.
func (b *book) sorted() []Record {
	all := make([]Record, 0, len(b.good))
	for _, p := range b.good {
		all = append(all, p.Record)
	}
	slices.SortFunc(all, func(x, y Record) int {
		return cmp.Or(x.Created.Compare(y.Created), x.ID.Compare(y.ID))
	})
	return all
}

// standing returns the good records that count, oldest first.
func (b *book) standing() []Record {
	lifted := make(map[kassett.ID]bool)
	for _, p := range b.good {
		if p.Kind == Lift {
			lifted[p.Lifts] = true
		}
	}
	return slices.DeleteFunc(b.sorted(), func(rec Record) bool { return rec.Kind == Lift || lifted[rec.ID] })
}

// heads returns the records that no other names.
func (b *book) heads() []kassett.ID {
	named := make(map[kassett.ID]bool)
	for _, p := range b.good {
		for _, id := range p.After {
			named[id] = true
		}
	}
	var heads []kassett.ID
	for id := range b.good {
		if !named[id] {
			heads = append(heads, id)
		}
	}
	slices.SortFunc(heads, kassett.ID.Compare)
	return heads[:min(len(heads), maxAfter)]
}

// mayLift reports why the record id cannot be lifted.
func (b *book) mayLift(id kassett.ID) error {
	p, bad := b.good[id], b.bad[id]
	switch {
	case p == nil && bad == nil:
		return fmt.Errorf("there is no record %s", id)
	case p != nil && p.Kind == Lift:
		return fmt.Errorf("record %s is itself a lift; add what it lifted again instead", id.Short())
	}
	return nil
}

func bad(name string, err error) error {
	kind := kassett.Corrupt
	if kassett.KindOf(err) == kassett.Invalid {
		kind = kassett.Invalid // signed here, by a newer version
	}
	return &kassett.Error{
		Op: "verify", What: name, Kind: kind, Err: err,
		Hint: cmp.Or(kassett.HintOf(err), "put the file back from a copy of the repository; if it is lost for good, two persons lift it"),
	}
}

// pinSigner writes records/signer, or makes sure it is ours.
func pinSigner(ctx context.Context, beside kassett.Beside, s signer) error {
	b, err := json.Marshal(signed{Format: "signer/1", Repository: s.repository, Signer: s.public})
	if err != nil {
		return err
	}
	b = append(b, '\n')
	err = beside.PutBeside(ctx, signerName, kassett.BytesBody(b, kassett.Hash(b)))
	if kassett.KindOf(err) == kassett.Exists {
		return checkSigner(ctx, beside, s.verifier)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", signerName, err)
	}
	return nil
}

// checkSigner compares records/signer with our own key. One that is gone is no
// fault: it is for others, and the next record brings it back.
func checkSigner(ctx context.Context, beside kassett.Beside, v verifier) error {
	b, err := kassett.ReadBeside(ctx, beside, signerName, maxSize)
	if kassett.KindOf(err) == kassett.NotFound {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", signerName, err)
	}
	var have signed
	if err := decodeStrict(b, &have); err != nil {
		return bad(signerName, err)
	}
	if have.Format != "signer/1" || have.Repository != v.repository || !bytes.Equal(have.Signer, v.public) {
		return bad(signerName, errors.New("it names another repository or another key"))
	}
	return nil
}
