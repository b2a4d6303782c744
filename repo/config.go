package repo

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/restic/chunker"

	"kassett"
)

// The versions of the format that are known here. Version 2 brought
// compression; version 1 is read and written, but no longer made.
const (
	MinVersion = 1
	MaxVersion = 2
)

// polynomialDegree is what the chunker's tables are made for.
const polynomialDegree = 53

// maxConfig bounds the stored config, in bytes. Ones seen have 155.
const maxConfig = 1 << 20

// Config is what all writers of a repository must agree on.
type Config struct {
	Version           uint        `json:"version"`
	ID                string      `json:"id"` // 64 hex digits, random
	ChunkerPolynomial chunker.Pol `json:"chunker_polynomial"`
}

func newConfig(version uint, pol chunker.Pol) (Config, error) {
	if version == 0 {
		version = MaxVersion
	}
	if pol == 0 {
		var err error
		if pol, err = chunker.RandomPolynomial(); err != nil {
			return Config{}, err
		}
	}
	var id kassett.ID
	_, _ = rand.Read(id[:]) // never fails: it ends the program instead
	c := Config{Version: version, ID: id.String(), ChunkerPolynomial: pol}
	return c, c.check()
}

// decodeConfig reads the plaintext of a config file.
func decodeConfig(plain []byte) (Config, error) {
	var c Config
	if err := json.Unmarshal(plain, &c); err != nil {
		return Config{}, &kassett.Error{Op: "read config", Kind: kassett.Corrupt, Err: err}
	}
	return c, c.check()
}

func (c Config) check() error {
	if c.Version < MinVersion || c.Version > MaxVersion {
		e := &kassett.Error{
			Op: "read config", Kind: kassett.Invalid,
			Err: fmt.Errorf("the repository has format version %d, known are %d to %d", c.Version, MinVersion, MaxVersion),
		}
		if c.Version > MaxVersion {
			e.Hint = "use a newer Kassett"
		}
		return e
	}
	if _, err := kassett.ParseID(c.ID); err != nil {
		return &kassett.Error{Op: "read config", Kind: kassett.Corrupt, Err: err}
	}
	if p := c.ChunkerPolynomial; p.Deg() != polynomialDegree || !p.Irreducible() {
		return &kassett.Error{
			Op: "read config", Kind: kassett.Corrupt,
			Err: fmt.Errorf("the chunker polynomial %x is not irreducible of degree %d", uint64(p), polynomialDegree),
		}
	}
	return nil
}

// readConfig returns the stored, sealed config.
func readConfig(ctx context.Context, st kassett.Storage) ([]byte, error) {
	sealed, err := readWhole(ctx, st, kassett.Handle{Kind: kassett.ConfigFile}, maxConfig)
	if err == nil {
		return sealed, nil
	}
	if kassett.KindOf(err) != kassett.NotFound {
		return nil, fmt.Errorf("read config: %w", err)
	}
	for _, listErr := range st.List(ctx, kassett.KeyFile) {
		if listErr != nil {
			break
		}
		return nil, &kassett.Error{
			Op: "open repository", Kind: kassett.Corrupt,
			Err:  errors.New("it has keys, but its config is gone"),
			Hint: "put the config file back from a copy of the repository, or from kassett/config-* beside it if a migration was cut short",
		}
	}
	return nil, &kassett.Error{
		Op: "open repository", Kind: kassett.NotFound,
		Err:  errors.New("there is no repository here"),
		Hint: "check the path, and that the storage is mounted; `kassett init` makes a new repository",
	}
}

// putConfig seals and stores a config. It is never compressed.
func putConfig(ctx context.Context, st kassett.Storage, key *sealKey, plain []byte) error {
	sealed := key.seal(nil, plain)
	return st.Put(ctx, kassett.Handle{Kind: kassett.ConfigFile}, kassett.BytesBody(sealed, kassett.Hash(sealed)))
}
