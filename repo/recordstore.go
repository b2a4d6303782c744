package repo

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"kassett"
)

// Where records rest beside a repository.
const (
	recordFolder = "records"
	recordSuffix = ".json"
	signerName   = "records/signer"
)

// maxAfter bounds how many records one record names.
const maxAfter = 64

// recordSigned is the file records/signer: the public key that records are
// verified with by those who cannot open the repository.
type recordSigned struct {
	Format     string `json:"kassett"` // "signer/1"
	Repository string `json:"repository"`
	Signer     []byte `json:"ed25519"`
}

// AddRecord signs and stores a record and returns its ID. Created is filled in
// when zero. A lift must name a record that is there, or one that is damaged or
// gone: then it says that two persons know. Errors are [kassett.Invalid] when
// the record makes no sense or the storage has no place for it.
func (r *Repository) AddRecord(ctx context.Context, rec Record) (kassett.ID, error) {
	invalid := func(err error, hint string) error {
		return &kassett.Error{Op: "add record", What: string(rec.Kind), Kind: kassett.Invalid, Err: err, Hint: hint}
	}
	beside, ok := kassett.As[kassett.Beside](r.storage)
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
	book, err := r.readRecords(ctx)
	if err != nil {
		return kassett.ID{}, err
	}
	if rec.Kind == LiftRecord {
		if err := book.mayLift(rec.Lifts); err != nil {
			return kassett.ID{}, invalid(err, "list the records with their IDs")
		}
	}
	s := r.signer()
	file, err := s.encode(rec, book.heads())
	if err != nil {
		return kassett.ID{}, fmt.Errorf("sign record: %w", err)
	}
	if _, err := s.decode(file); err != nil { // too long, above all
		return kassett.ID{}, invalid(err, "")
	}
	if err := r.pass(ctx); err != nil {
		return kassett.ID{}, err
	}
	if err := pinSigner(ctx, beside, s); err != nil {
		return kassett.ID{}, err
	}
	id := kassett.Hash(file)
	name := recordName(id)
	if err := beside.PutBeside(ctx, name, kassett.BytesBody(file, id)); err != nil {
		return kassett.ID{}, fmt.Errorf("write %s: %w", name, err)
	}
	return id, nil
}

func recordName(id kassett.ID) string { return recordFolder + "/" + id.String() + recordSuffix }

// Records returns the records that stand: verified, oldest first, without lifts
// and what they lifted, but with those whose date has passed. A record that was
// changed, cut, taken away or brought from elsewhere is a [kassett.Corrupt]
// error that names its file, and nothing must be forgotten then. Storage that
// keeps no files beside a repository has none.
func (r *Repository) Records(ctx context.Context) ([]Record, error) {
	book, err := r.readRecords(ctx)
	if err != nil {
		return nil, err
	}
	if err := book.trouble(); err != nil {
		return nil, err
	}
	return book.standing(), nil
}

// RecordHistory returns every record that can be verified, oldest first, lifts
// and lifted ones too. What [Repository.Records] would refuse is in the error,
// beside the records.
func (r *Repository) RecordHistory(ctx context.Context) ([]Record, error) {
	book, err := r.readRecords(ctx)
	if err != nil {
		return nil, err
	}
	return book.sorted(), book.trouble()
}

// recordBook is all that was found below records/.
type recordBook struct {
	good   map[kassett.ID]*recordPayload
	bad    map[kassett.ID]error // damaged, or named by others and gone
	pinned error                // what is wrong with records/signer
}

// readRecords reads all records. Its error is that they could not be looked at.
func (r *Repository) readRecords(ctx context.Context) (*recordBook, error) {
	beside, ok := kassett.As[kassett.Beside](r.storage)
	if !ok {
		return &recordBook{}, nil
	}
	return readBook(ctx, beside, r.signer().recordVerifier, r.Connections())
}

// readBook reads the records beside a repository, with so many calls side by
// side.
func readBook(ctx context.Context, beside kassett.Beside, v recordVerifier, connections int) (*recordBook, error) {
	book := &recordBook{good: make(map[kassett.ID]*recordPayload), bad: make(map[kassett.ID]error)}
	var ids []kassett.ID
	for info, err := range beside.ListBeside(ctx, recordFolder) {
		if err != nil {
			return nil, fmt.Errorf("list records: %w", err)
		}
		name, isRecord := strings.CutSuffix(strings.TrimPrefix(info.Name, recordFolder+"/"), recordSuffix)
		if info.Name == signerName || !isRecord {
			continue
		}
		id, err := kassett.ParseID(name)
		if err != nil {
			// A record under a wrong name; the ID it has here is only
			// to tell it from others.
			book.bad[kassett.Hash([]byte(info.Name))] = badRecord(info.Name, err)
			continue
		}
		ids = append(ids, id)
	}
	found := make([]*recordPayload, len(ids))
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
func readRecord(ctx context.Context, beside kassett.Beside, v recordVerifier, id kassett.ID) (p *recordPayload, fault, err error) {
	name := recordName(id)
	file, err := readBeside(ctx, beside, name, maxRecord)
	switch kassett.KindOf(err) {
	case kassett.NotFound: // taken away since it was listed
		return nil, badRecord(name, errors.New("it is gone")), nil
	case kassett.Corrupt:
		return nil, badRecord(name, err), nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", name, err)
	}
	if sum := kassett.Hash(file); sum != id {
		return nil, badRecord(name, fmt.Errorf("its bytes have the hash %s", sum)), nil
	}
	p, err = v.decode(file)
	if err != nil {
		return nil, badRecord(name, err), nil
	}
	return p, nil, nil
}

// judge finds the records that are gone although others name them, and forgets
// the faults of those that a lift names.
func (b *recordBook) judge() {
	for _, p := range b.good {
		for _, id := range p.After {
			if b.good[id] == nil && b.bad[id] == nil {
				b.bad[id] = badRecord(recordName(id), fmt.Errorf("it is gone, but record %s came after it", p.ID.Short()))
			}
		}
	}
	for _, p := range b.good {
		if p.Kind == LiftRecord {
			delete(b.bad, p.Lifts)
		}
	}
}

// trouble returns everything that is wrong, or nil.
func (b *recordBook) trouble() error {
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
func (b *recordBook) sorted() []Record {
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
func (b *recordBook) standing() []Record {
	lifted := make(map[kassett.ID]bool)
	for _, p := range b.good {
		if p.Kind == LiftRecord {
			lifted[p.Lifts] = true
		}
	}
	return slices.DeleteFunc(b.sorted(), func(rec Record) bool { return rec.Kind == LiftRecord || lifted[rec.ID] })
}

// heads returns the records that no other names.
func (b *recordBook) heads() []kassett.ID {
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
func (b *recordBook) mayLift(id kassett.ID) error {
	p, bad := b.good[id], b.bad[id]
	switch {
	case p == nil && bad == nil:
		return fmt.Errorf("there is no record %s", id)
	case p != nil && p.Kind == LiftRecord:
		return fmt.Errorf("record %s is itself a lift; add what it lifted again instead", id.Short())
	}
	return nil
}

func badRecord(name string, err error) error {
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
func pinSigner(ctx context.Context, beside kassett.Beside, s recordSigner) error {
	b, err := json.Marshal(recordSigned{Format: "signer/1", Repository: s.repository, Signer: s.public})
	if err != nil {
		return err
	}
	b = append(b, '\n')
	err = beside.PutBeside(ctx, signerName, kassett.BytesBody(b, kassett.Hash(b)))
	if kassett.KindOf(err) == kassett.Exists {
		return checkSigner(ctx, beside, s.recordVerifier)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", signerName, err)
	}
	return nil
}

// checkSigner compares records/signer with our own key. One that is gone is no
// fault: it is for others, and the next record brings it back.
func checkSigner(ctx context.Context, beside kassett.Beside, v recordVerifier) error {
	b, err := readBeside(ctx, beside, signerName, maxRecord)
	if kassett.KindOf(err) == kassett.NotFound {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", signerName, err)
	}
	var have recordSigned
	if err := decodeStrict(b, &have); err != nil {
		return badRecord(signerName, err)
	}
	if have.Format != "signer/1" || have.Repository != v.repository || !bytes.Equal(have.Signer, v.public) {
		return badRecord(signerName, errors.New("it names another repository or another key"))
	}
	return nil
}

// readBeside reads one file of at most limit bytes beside a repository.
func readBeside(ctx context.Context, beside kassett.Beside, name string, limit int64) (b []byte, err error) {
	rc, err := beside.GetBeside(ctx, name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rc.Close()) }()
	b, err = io.ReadAll(io.LimitReader(rc, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = &kassett.Error{Kind: kassett.Corrupt, Err: fmt.Errorf("it has more than %d bytes", limit)}
	}
	return b, err
}
