package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"kassett"
	"kassett/storage"
)

// What the server keeps about a repository rests beside it, below served/, which
// no client sees: docs/formats/served.md.
const (
	servedFolder = "served"
	ownerFolder  = servedFolder + "/locks"
	usedFolder   = servedFolder + "/used"
	recordFolder = "records"
	doomedFolder = "doomed"
)

var errServerOnly = errors.New("these files are the server's own")

// serverOnly reports whether a file beside a repository is the server's own.
func serverOnly(name string) bool {
	return name == servedFolder || strings.HasPrefix(name, servedFolder+"/")
}

// served is a repository that is open.
type served struct {
	path   string
	st     kassett.Storage
	beside kassett.Beside

	small sync.Mutex // held while a key or the config is stored, or a key is removed

	mu      sync.Mutex
	owners  map[kassett.ID]owner
	used    int64 // bytes, with those of uploads under way
	counted time.Time
	unclean bool // used is not known: it has to be counted
}

// owner is who made a lock, and when it came in.
type owner struct {
	Client   string    `json:"client"`
	Received time.Time `json:"received"`
	seen     time.Time // by the clock of this process, which nobody sets; zero from before its start
}

func newServed(ctx context.Context, path string, st kassett.Storage) (*served, error) {
	beside, ok := kassett.As[kassett.Beside](st)
	if !ok {
		return nil, errors.New("this storage keeps no files beside a repository")
	}
	s := &served{path: path, st: st, beside: beside, owners: map[kassett.ID]owner{}, unclean: true}
	for in, err := range beside.ListBeside(ctx, servedFolder) {
		if err != nil {
			return nil, fmt.Errorf("read what the server knows of %s: %w", path, err)
		}
		if name, ok := strings.CutPrefix(in.Name, ownerFolder+"/"); ok {
			if err := s.readOwner(ctx, name); err != nil {
				return nil, err
			}
		}
		if text, ok := strings.CutPrefix(in.Name, usedFolder+"/"); ok {
			if n, err := strconv.ParseInt(text, 10, 64); err == nil && n >= 0 && s.unclean {
				s.used, s.unclean = n, false
			}
			// It holds until the next write only.
			if err := beside.DeleteBeside(ctx, in.Name); err != nil {
				return nil, fmt.Errorf("read what the server knows of %s: %w", path, err)
			}
		}
	}
	return s, nil
}

func (s *served) readOwner(ctx context.Context, name string) error {
	id, err := kassett.ParseID(name)
	if err != nil {
		return nil //nolint:nilerr // not of ours
	}
	r, err := s.beside.GetBeside(ctx, ownerFolder+"/"+name)
	if err != nil {
		return fmt.Errorf("read who owns lock %s: %w", id.Short(), err)
	}
	text, err := io.ReadAll(io.LimitReader(r, 4<<10))
	var o owner
	if err := errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("read who owns lock %s: %w", id.Short(), err)
	}
	if json.Unmarshal(text, &o) == nil { // else it is nobody's, and goes when its time has come
		s.owners[id] = o
	}
	return nil
}

// close writes down how many bytes are stored, so that the next start need not
// count.
func (s *served) close(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if !s.unclean {
		name := fmt.Sprintf("%s/%d", usedFolder, s.used)
		err = s.beside.PutBeside(ctx, name, kassett.BytesBody([]byte{'\n'}, kassett.Hash([]byte{'\n'})))
		if kassett.KindOf(err) == kassett.Exists {
			err = nil
		}
	}
	return errors.Join(err, closeStorage(s.st))
}

// recount is how often the bytes are counted anew at most, for a client who
// would get no room, and at least, since others may work on the storage too.
const (
	recountMost  = 5 * time.Minute
	recountLeast = 24 * time.Hour
	// leftover is how old a file that was being written has to be to have
	// been given up.
	leftover = 24 * time.Hour
)

// reserve takes room for n bytes, for a client with this quota. Who fails to
// store them gives them back with release.
func (s *served) reserve(ctx context.Context, n, quota int64, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if quota > 0 {
		age := now.Sub(s.counted)
		if s.unclean || !s.counted.IsZero() && age > recountLeast || s.used+n > quota && age > recountMost {
			if err := s.count(ctx, now); err != nil {
				return err
			}
		}
		if s.used > quota-n {
			return fmt.Errorf("the repository holds %d bytes, with %d more its quota of %d would be exceeded", s.used, n, quota)
		}
	}
	s.used += n
	return nil
}

func (s *served) release(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = max(0, s.used-n)
}

// count adds up all that is stored, and removes what uploads left that a crash
// of the server cut off. The caller holds mu, so that no other upload begins;
// the ones under way are counted again when they end, which errs on the side
// of too much.
func (s *served) count(ctx context.Context, now time.Time) error {
	if sweeper, ok := kassett.As[kassett.Sweeper](s.st); ok {
		if _, err := sweeper.Sweep(ctx, now.Add(-leftover)); err != nil {
			return fmt.Errorf("remove leftovers: %w", err)
		}
	}
	var used int64
	for _, k := range storage.Folders() {
		for in, err := range s.st.List(ctx, k) {
			if err != nil {
				return fmt.Errorf("count what is stored: %w", err)
			}
			used += in.Size
		}
	}
	for in, err := range s.beside.ListBeside(ctx, "") {
		if err != nil {
			return fmt.Errorf("count what is stored: %w", err)
		}
		used += in.Size
	}
	s.used, s.counted, s.unclean = used, now, false
	return nil
}
