package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"kassett"
	"kassett/repo/parity"
)

// settingName is where the overhead of parity is kept, before its number: the
// file with the highest number counts. They are sealed, so that only who has a
// key of the repository sets it.
const settingName = "parity/overhead-"

// paritySetting is the plaintext of such a file.
type paritySetting struct {
	Format     string          `json:"kassett"` // "parity/1"
	Repository string          `json:"repository"`
	Number     uint64          `json:"number"`
	Overhead   parity.Overhead `json:"overhead"` // hundredths of a percent
	Created    time.Time       `json:"created"`
}

// Parity returns how much parity the repository is to have, and false when
// nobody has said, or when the storage keeps no files beside a repository.
// Settings that cannot be opened are passed over with a warning.
func (r *Repository) Parity(ctx context.Context) (parity.Overhead, bool, error) {
	s, err := r.paritySetting(ctx)
	return s.Overhead, s.Number > 0, err
}

func (r *Repository) paritySetting(ctx context.Context) (last paritySetting, err error) {
	beside, ok := kassett.As[kassett.Beside](r.storage)
	if !ok {
		return last, nil
	}
	var numbers []uint64
	for info, err := range beside.ListBeside(ctx, "parity") {
		if err != nil {
			return last, fmt.Errorf("list parity: %w", err)
		}
		digits, is := strings.CutPrefix(info.Name, settingName)
		if n, err := strconv.ParseUint(digits, 10, 32); is && err == nil && n > 0 {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	for _, n := range slices.Backward(numbers) {
		s, err := r.readParitySetting(ctx, beside, n)
		if err == nil {
			return s, nil
		}
		if k := kassett.KindOf(err); k != kassett.Corrupt && k != kassett.NotFound {
			return last, err
		}
		r.warn(&kassett.Error{
			Op: "read", What: parityName(n), Kind: kassett.Corrupt, Err: err,
			Hint: "say with `kassett parity set` how much parity is wanted",
		})
	}
	return last, nil
}

func parityName(n uint64) string { return fmt.Sprintf("%s%08d", settingName, n) }

func (r *Repository) readParitySetting(ctx context.Context, beside kassett.Beside, n uint64) (s paritySetting, err error) {
	sealed, err := kassett.ReadBeside(ctx, beside, parityName(n), maxNote)
	if err != nil {
		return s, err
	}
	plain, err := r.key.Open(nil, sealed)
	if err != nil {
		return s, err
	}
	err = json.Unmarshal(plain, &s)
	if err == nil && (s.Format != "parity/1" || s.Repository != r.Config().ID || s.Number != n || s.Overhead != 0 &&
		(s.Overhead < parity.MinOverhead || s.Overhead > parity.MaxOverhead)) {
		err = errors.New("it is not a setting of this repository")
	}
	if err != nil {
		return s, &kassett.Error{Kind: kassett.Corrupt, Err: err}
	}
	return s, nil
}

// SetParity says how much parity the repository is to have; zero is none. All
// who write to it follow. Nothing is made or removed by this.
func (r *Repository) SetParity(ctx context.Context, o parity.Overhead) error {
	beside, ok := kassett.As[kassett.Beside](r.storage)
	if !ok {
		_, err := parity.New(r.storage, parity.Options{}) // says it in the right words
		return err
	}
	last, err := r.paritySetting(ctx)
	if err != nil {
		return err
	}
	s := paritySetting{
		Format: "parity/1", Repository: r.Config().ID, Number: last.Number + 1, Overhead: o,
		Created: time.Now().UTC().Truncate(time.Second),
	}
	for {
		plain, err := json.Marshal(&s)
		if err != nil {
			return err
		}
		sealed := r.key.Seal(nil, plain)
		if err := r.pass(ctx); err != nil {
			return err
		}
		err = beside.PutBeside(ctx, parityName(s.Number), kassett.BytesBody(sealed, kassett.Hash(sealed)))
		if kassett.KindOf(err) != kassett.Exists {
			return err
		}
		s.Number++ // someone else was quicker, or planted a file
	}
}

// ParityKeeper returns what makes and uses the parity of this repository. o's
// Needed and Pass are filled in.
func (r *Repository) ParityKeeper(o parity.Options) (*parity.Keeper, error) {
	o.Needed, o.Pass = r.namedByIndex, r.pass
	return parity.New(r.storage, o)
}

// namedByIndex returns which of the packs an index file names. While an index
// file is damaged, it may be any of them.
func (r *Repository) namedByIndex(ctx context.Context, packs []kassett.ID) (named map[kassett.ID]bool, err error) {
	for range indexTries {
		named, err = r.namedNow(ctx, packs)
		if kassett.KindOf(err) != kassett.NotFound {
			break // otherwise a sweep has replaced index files beside us
		}
	}
	if err != nil && ctx.Err() == nil && damaged(err) {
		for id := range named {
			named[id] = true
		}
		return named, nil
	}
	return named, err
}

// namedNow is namedByIndex as long as no index file goes.
func (r *Repository) namedNow(ctx context.Context, packs []kassett.ID) (map[kassett.ID]bool, error) {
	named := make(map[kassett.ID]bool, len(packs))
	for _, id := range packs {
		named[id] = false
	}
	files, err := r.listIDs(ctx, kassett.IndexFile)
	if err != nil {
		return nil, err
	}
	for _, index := range files {
		err := r.eachIndexed(ctx, index, func(pack kassett.ID, _ []Blob) error {
			if _, asked := named[pack]; asked {
				named[pack] = true
			}
			return nil
		})
		if err != nil {
			return named, err
		}
	}
	return named, nil
}
