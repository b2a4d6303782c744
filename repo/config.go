package repo

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

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

// mendConfig is the next step where config is damaged or gone.
const mendConfig = "if the repository has parity, run `kassett repair parity`; otherwise put the config file back from a copy of the repository"

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
	if kassett.KindOf(err) != kassett.NotFound || kassett.HintOf(err) != "" { // of a bucket, say, that is not there
		return nil, fmt.Errorf("read config: %w", err)
	}
	if hasAny(ctx, st, kassett.KeyFile) {
		hint := mendConfig
		if name := findConfigCopy(ctx, st); name != "" {
			hint = "a migration was cut short: copy kassett/" + name + " to the place of the file config"
		} else if !hasAny(ctx, st, kassett.SnapshotFile, kassett.IndexFile, kassett.PackFile) {
			hint = "nothing is stored here: if `kassett init` was cut short, remove the keys and run it again"
		}
		return nil, &kassett.Error{
			Op: "open repository", Kind: kassett.Corrupt, Hint: hint,
			Err: errors.New("it has keys, but its config is gone"),
		}
	}
	hint := "check the path, and that the storage is mounted; `kassett init` makes a new repository"
	if _, ok := kassett.As[kassett.Versioned](st); ok {
		hint = "check the place; if a repository was here, `kassett repair versions --dry-run` looks for what was deleted; `kassett init` makes a new one"
	}
	return nil, &kassett.Error{
		Op: "open repository", Kind: kassett.NotFound, Err: errors.New("there is no repository here"), Hint: hint,
	}
}

// hasAny reports whether there is a file of one of the kinds, or whether that
// cannot be said.
func hasAny(ctx context.Context, st kassett.Storage, kinds ...kassett.FileKind) bool {
	for _, k := range kinds {
		for _, err := range st.List(ctx, k) {
			_ = err // when listing fails there may be one
			return true
		}
	}
	return false
}

// configCopy begins the names, beside a repository, of configs that were copied
// away while they were replaced.
const configCopy = "config-"

// findConfigCopy returns the name of such a copy, or "".
func findConfigCopy(ctx context.Context, st kassett.Storage) string {
	beside, ok := kassett.As[kassett.Beside](st)
	if !ok {
		return ""
	}
	for info, err := range beside.ListBeside(ctx, "") {
		if err == nil && strings.HasPrefix(info.Name, configCopy) {
			return info.Name
		}
	}
	return ""
}
