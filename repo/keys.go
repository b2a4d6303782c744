package repo

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/scrypt"

	"kassett"
	"kassett/repo/seal"
)

// Scrypt is the cost of turning a password into a key: N rounds (a power of
// two) over blocks of R times 128 bytes, P times.
type Scrypt struct{ N, R, P int }

// defaultScrypt is fixed, not measured: a password set on a slow old machine
// must not be cheaper to guess than one set on a new one. N=2^15 r=8 takes
// 32 MiB of memory, which the smallest host has; P=4 is one step above what
// OWASP's Password Storage Cheat Sheet (2023) asks for at this N, and what
// restic's own calibration (500 ms, 60 MB) came to on machines of 2022. It is
// paid once for each key tried.
var defaultScrypt = Scrypt{N: 1 << 15, R: 8, P: 4}

// Bounds on what a key file from elsewhere may cost. The scrypt paper's cost
// for files (N=2^20 r=8 p=1: 1 GiB, about 3 s) just fits.
const (
	maxScryptMemory = 1<<30 + 1<<20 // bytes
	maxScryptWork   = 1 << 24       // N·R·P
)

const (
	saltSize = 64 // bytes, exactly: restic refuses any other

	maxKeyFile = 64 << 10 // bytes; ones seen have about 450

	// maxKeysTried is restic's: with more keys than this, readers find
	// theirs only with a hint.
	maxKeysTried = 20

	// maxKeysRead bounds how many key files are looked at to choose those
	// that are tried.
	maxKeysRead = 200
)

// ManyKeys is the number of keys above which a repository should not go: every
// wrong one tried costs its reader half a second, and restic tries only 20.
const ManyKeys = 10

// Key describes one of the passwords that open a repository.
type Key struct {
	ID         kassett.ID
	Created    time.Time
	User, Host string // who made it, and where
	Scrypt     Scrypt
	Current    bool // it opened this Repository
}

// keyFile is a key file: plain JSON, in restic's order of fields.
type keyFile struct {
	Created  time.Time `json:"created"`
	Username string    `json:"username"`
	Hostname string    `json:"hostname"`
	KDF      string    `json:"kdf"`
	N        int       `json:"N"`
	R        int       `json:"r"`
	P        int       `json:"p"`
	Salt     []byte    `json:"salt"` // 64 bytes
	Data     []byte    `json:"data"` // the master key's JSON, sealed
}

// check reports whether the cost can be paid, and is not a trap.
func (s Scrypt) check() error {
	n, r, p := int64(s.N), int64(s.R), int64(s.P)
	switch {
	case n < 2 || n&(n-1) != 0:
		return fmt.Errorf("scrypt N is %d, want a power of two", n)
	case n > maxScryptWork || r < 1 || r > maxScryptWork || p < 1 || p > maxScryptWork,
		r*p > maxScryptWork || n > maxScryptWork/(r*p), 128*r*(n+p+2) > maxScryptMemory:
		return fmt.Errorf("scrypt N=%d r=%d p=%d is outside what is accepted (%d MiB, N·r·p ≤ %d)",
			n, r, p, maxScryptMemory>>20, maxScryptWork)
	}
	return nil
}

// derive makes the key that seals the master key.
func (s Scrypt) derive(password, salt []byte) (*seal.Key, error) {
	if len(salt) != saltSize {
		return nil, fmt.Errorf("salt of %d bytes, want %d", len(salt), saltSize)
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	secret, err := scrypt.Key(password, salt, s.N, s.R, s.P, seal.KeySize)
	if err != nil {
		return nil, err
	}
	return seal.NewKey(secret)
}

// decodeKeyFile reads and checks a key file, but tries no password.
func decodeKeyFile(b []byte) (*keyFile, error) {
	f := &keyFile{}
	if err := json.Unmarshal(b, f); err != nil {
		return nil, err
	}
	if f.KDF != "scrypt" {
		return nil, fmt.Errorf("key derivation is %.20q, only scrypt is known", f.KDF)
	}
	if len(f.Salt) != saltSize {
		return nil, fmt.Errorf("salt of %d bytes, want %d", len(f.Salt), saltSize)
	}
	if len(f.Data) < Overhead {
		return nil, fmt.Errorf("sealed key of %d bytes is too short", len(f.Data))
	}
	return f, f.cost().check()
}

func (f *keyFile) cost() Scrypt { return Scrypt{N: f.N, R: f.R, P: f.P} }

// unlock opens the master key. errWrongPassword says that the password, and
// not the file, is at fault.
func (f *keyFile) unlock(password []byte) (*seal.Key, error) {
	user, err := f.cost().derive(password, f.Salt)
	if err != nil {
		return nil, err
	}
	plain, err := user.Open(nil, f.Data)
	if err != nil {
		return nil, errWrongPassword
	}
	defer clear(plain)
	master, err := seal.UnmarshalKey(plain)
	if err != nil {
		return nil, fmt.Errorf("master key: %w", err)
	}
	return master, nil
}

var errWrongPassword = errors.New("the password does not fit")

// readKeyFile reads one key file and compares it with its name.
func readKeyFile(ctx context.Context, st kassett.Storage, id kassett.ID) (*keyFile, error) {
	h := kassett.Handle{Kind: kassett.KeyFile, ID: id}
	b, err := readWhole(ctx, st, h, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", h, err)
	}
	damaged := func(err error) error {
		return &kassett.Error{
			Op: "read", What: h.String(), Kind: kassett.Corrupt, Err: err,
			Hint: "put the file back from a copy, or open with another key and remove this one",
		}
	}
	if sum := kassett.Hash(b); sum != id {
		return nil, damaged(fmt.Errorf("its bytes have the hash %s", sum))
	}
	f, err := decodeKeyFile(b)
	if err != nil {
		return nil, damaged(err)
	}
	return f, nil
}

// keyCandidate is a key that may be tried.
type keyCandidate struct {
	id   kassett.ID
	file *keyFile
}

// findKey looks for the key that a password opens: the hinted one first, then
// those of this host, then the others, at most maxKeysTried in all. Damaged
// keys stop nobody; they are named as warnings, or in the error when no other
// key fits.
func findKey(ctx context.Context, st kassett.Storage, password []byte, o Options) (kassett.ID, *seal.Key, error) {
	candidates, damaged, err := keyCandidates(ctx, st, o.KeyHint)
	if err != nil {
		return kassett.ID{}, nil, err
	}
	tried := 0
	for _, c := range candidates {
		if tried == maxKeysTried {
			break
		}
		if err := context.Cause(ctx); err != nil {
			return kassett.ID{}, nil, err
		}
		tried++
		master, err := c.file.unlock(password)
		if err == nil {
			if o.Warn != nil {
				for _, d := range damaged {
					o.Warn(d)
				}
			}
			return c.id, master, nil
		}
		if !errors.Is(err, errWrongPassword) {
			damaged = append(damaged, &kassett.Error{
				Op: "open", What: "keys/" + c.id.String(), Kind: kassett.Corrupt, Err: err,
			})
		}
	}
	return kassett.ID{}, nil, noKeyFits(len(candidates), tried, damaged)
}

func noKeyFits(readable, tried int, damaged []error) error {
	if readable == 0 && len(damaged) == 0 {
		return &kassett.Error{
			Op: "open repository", Kind: kassett.Corrupt, Err: errors.New("it has a config but no keys"),
			Hint: "put the keys folder back from a copy of the repository, or, if it has parity, run `kassett repair parity --gone`; without a key nothing in it can be read",
		}
	}
	kind, hint := kassett.WrongPassword, "check the password, and that this is the repository you mean"
	cause := fmt.Errorf("it opens no key (%d tried)", tried)
	switch {
	case readable == 0:
		kind, hint = kassett.Corrupt, "if the repository has parity, run `kassett repair parity`; otherwise put the key files back from a copy of the repository"
		cause = errors.New("every key is damaged")
	case readable > tried:
		cause = fmt.Errorf("it opens none of the first %d keys, and there are more", tried)
		hint = "name the key with --key-hint"
	}
	return &kassett.Error{
		Op: "open repository", Kind: kind, Hint: hint,
		Err: errors.Join(append([]error{cause}, damaged...)...),
	}
}

// keyCandidates reads the key files and puts them into the order of trying.
// Files that are damaged come back as errors of their own; the last error is
// that the keys could not be looked at.
func keyCandidates(ctx context.Context, st kassett.Storage, hint string) (all []keyCandidate, damaged []error, err error) {
	var hinted, ids []kassett.ID
	for info, err := range st.List(ctx, kassett.KeyFile) {
		if err != nil {
			return nil, nil, fmt.Errorf("list keys: %w", err)
		}
		if hint != "" && strings.HasPrefix(info.ID.String(), hint) {
			hinted = append(hinted, info.ID)
		} else {
			ids = append(ids, info.ID)
		}
	}
	slices.SortFunc(ids, kassett.ID.Compare)
	ids = append(hinted, ids...)
	var others []keyCandidate
	host := thisHost()
	for i, id := range ids[:min(len(ids), maxKeysRead)] {
		f, err := readKeyFile(ctx, st, id)
		switch kind := kassett.KindOf(err); {
		case kind == kassett.Interrupted:
			return nil, nil, err
		case kind == kassett.NotFound: // removed since it was listed
		case err != nil:
			damaged = append(damaged, err)
		case i < len(hinted) || f.Hostname == host:
			all = append(all, keyCandidate{id, f})
		default:
			others = append(others, keyCandidate{id, f})
		}
	}
	return append(all, others...), damaged, nil
}

// keyRequest is a key to be made.
type keyRequest struct {
	password   []byte
	cost       Scrypt // zero = defaultScrypt
	user, host string // "" = this user, this host
}

// putKey seals a master key under a password and stores it.
func putKey(ctx context.Context, st kassett.Storage, master *seal.Key, req keyRequest) (kassett.ID, error) {
	if len(req.password) == 0 {
		return kassett.ID{}, &kassett.Error{
			Op: "make key", Kind: kassett.Invalid, Err: errors.New("the password is empty"),
			Hint: "choose a password; an empty one protects nothing",
		}
	}
	cost := cmp.Or(req.cost, defaultScrypt)
	f := keyFile{
		Created: time.Now(), Username: cmp.Or(req.user, thisUser()), Hostname: cmp.Or(req.host, thisHost()),
		KDF: "scrypt", N: cost.N, R: cost.R, P: cost.P, Salt: make([]byte, saltSize),
	}
	_, _ = rand.Read(f.Salt) // never fails: it ends the program instead
	user, err := cost.derive(req.password, f.Salt)
	if err != nil {
		return kassett.ID{}, &kassett.Error{Op: "make key", Kind: kassett.Invalid, Err: err}
	}
	plain, err := master.Marshal()
	if err != nil {
		return kassett.ID{}, fmt.Errorf("make key: %w", err)
	}
	defer clear(plain)
	f.Data = user.Seal(nil, plain)
	b, err := json.Marshal(f)
	if err != nil {
		return kassett.ID{}, fmt.Errorf("make key: %w", err)
	}
	// What goes out must open again: a key that does not is worse than none.
	if back, err := decodeKeyFile(b); err != nil {
		return kassett.ID{}, fmt.Errorf("verify key: %w", err)
	} else if plain2, err := user.Open(nil, back.Data); err != nil || string(plain2) != string(plain) {
		return kassett.ID{}, fmt.Errorf("verify key: %w", errors.Join(err, seal.ErrSeal))
	}
	h := kassett.Handle{Kind: kassett.KeyFile, ID: kassett.Hash(b)}
	if err := st.Put(ctx, h, kassett.BytesBody(b, h.ID)); err != nil {
		return kassett.ID{}, fmt.Errorf("write %s: %w", h, err)
	}
	return h.ID, nil
}

// Keys returns the repository's keys, oldest first. Damaged ones are named in
// the error, and the others returned beside it.
func (r *Repository) Keys(ctx context.Context) ([]Key, error) {
	candidates, damaged, err := keyCandidates(ctx, r.storage, "")
	if err != nil {
		return nil, err
	}
	current := r.KeyID()
	keys := make([]Key, 0, len(candidates))
	for _, c := range candidates {
		keys = append(keys, Key{
			ID: c.id, Created: c.file.Created, User: c.file.Username, Host: c.file.Hostname,
			Scrypt: c.file.cost(), Current: c.id == current,
		})
	}
	slices.SortFunc(keys, func(a, b Key) int { return cmp.Or(a.Created.Compare(b.Created), a.ID.Compare(b.ID)) })
	return keys, errors.Join(damaged...)
}

// AddKey adds a password. An empty user or host is this one. When there are
// more than [ManyKeys] now, Options.Warn is told.
func (r *Repository) AddKey(ctx context.Context, password []byte, user, host string) (kassett.ID, error) {
	if err := r.pass(ctx); err != nil {
		return kassett.ID{}, err
	}
	id, err := putKey(ctx, r.storage, r.key, keyRequest{password: password, cost: r.options.KeyCost, user: user, host: host})
	if err != nil {
		return kassett.ID{}, err
	}
	n := 0
	for _, err := range r.storage.List(ctx, kassett.KeyFile) {
		if err != nil {
			break // the key is there; the count is only for the warning
		}
		n++
	}
	if n > ManyKeys {
		r.warn(&kassett.Error{
			Op: "add key", Kind: kassett.Invalid, Err: fmt.Errorf("the repository has %d keys now", n),
			Hint: fmt.Sprintf("remove keys that nobody uses: with more than %d, readers need --key-hint", maxKeysTried),
		})
	}
	return id, nil
}

// RemoveKey removes a password. The key in use, and with it the last one, is
// refused as [kassett.Invalid].
func (r *Repository) RemoveKey(ctx context.Context, id kassett.ID) error {
	if id == r.KeyID() {
		return &kassett.Error{
			Op: "remove", What: "keys/" + id.String(), Kind: kassett.Invalid,
			Err:  errors.New("the repository is open by this key"),
			Hint: "open the repository by another key, then remove this one",
		}
	}
	// The key in use may have been removed by someone else meanwhile; then
	// id may be the last.
	var others bool
	for info, err := range r.List(ctx, kassett.KeyFile) {
		if err != nil {
			return err
		}
		others = others || info.ID != id
	}
	if !others {
		return &kassett.Error{
			Op: "remove", What: "keys/" + id.String(), Kind: kassett.Invalid,
			Err: errors.New("it is the last key"), Hint: "add another key first",
		}
	}
	return r.Delete(ctx, kassett.KeyFile, id)
}

// ChangePassword adds a new password, makes sure that the repository opens by
// it, and then removes the one in use. If the removal fails both are valid, and
// the error says so together with the ID of the new key.
func (r *Repository) ChangePassword(ctx context.Context, password []byte) (kassett.ID, error) {
	old := r.KeyID()
	id, err := putKey(ctx, r.storage, r.key, keyRequest{password: password, cost: r.options.KeyCost})
	if err != nil {
		return kassett.ID{}, err
	}
	f, err := readKeyFile(ctx, r.storage, id)
	if err == nil {
		var master *seal.Key
		if master, err = f.unlock(password); err == nil && !master.Equal(r.key) {
			err = seal.ErrSeal
		}
	}
	if err != nil {
		err = fmt.Errorf("open by the new key: %w", err)
		return kassett.ID{}, errors.Join(err, r.Delete(context.WithoutCancel(ctx), kassett.KeyFile, id))
	}
	r.mu.Lock()
	r.keyID = id
	r.mu.Unlock()
	if err := r.Delete(ctx, kassett.KeyFile, old); err != nil {
		return id, fmt.Errorf("the new password is valid, and the old one still is: %w", err)
	}
	return id, nil
}
