package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"os/user"
	"sync"

	"github.com/restic/chunker"

	"kassett"
	"kassett/repo/blobtable"
	"kassett/repo/record"
	"kassett/repo/seal"
)

// Compression says how hard blobs are compressed in a repository of version 2.
// The words are restic's.
type Compression string

// The compressions. The empty one is CompressAuto.
const (
	CompressAuto    Compression = "auto"
	CompressOff     Compression = "off"
	CompressFastest Compression = "fastest"
	CompressBetter  Compression = "better"
	CompressMax     Compression = "max"
)

// defaultConnections is how many storage operations run side by side unless the
// caller says otherwise: enough to hide the round trips of an object store, few
// enough not to trouble a disk.
const defaultConnections = 5

// Options say how a repository is used. The zero value is good.
type Options struct {
	Compression Compression
	PackSize    int    // bytes; 0 = 16 MiB
	CacheDir    string // "" = the blob table lives in a private temporary file that is removed
	KeyHint     string // prefix of the ID of the key to try first
	Connections int    // storage operations side by side; 0 = what the storage says
	// KeyCost is the cost of passwords set from now on; zero is the default,
	// and anything less than the default is for tests.
	KeyCost Scrypt
	// Warn is told what went wrong without stopping the work: a damaged key
	// beside a good one, a lock that could not be refreshed yet. It may be
	// nil, and is called from many goroutines.
	Warn func(error)
}

// InitOptions say how a repository is made. The zero value is good.
type InitOptions struct {
	Options
	Version    uint        // of the format; 0 = 2
	Polynomial chunker.Pol // 0 = random
	Scrypt     Scrypt      // cost of the first password; zero = Options.KeyCost
	Host, User string      // written into the first key; "" = this host, this user
}

// Repository is an open repository. Its methods are safe for many goroutines.
type Repository struct {
	storage kassett.Storage
	options Options
	key     *seal.Key // the master key
	codec   codec
	table   *blobtable.Table // of known blobs
	doomed  honoured         // what is treated as if it were not there
	// place is the hash of the sealed config. Places of one repository differ
	// in it, since no seal is made twice.
	place kassett.ID

	mu     sync.RWMutex // guards what follows
	config Config       // changes when migrated
	keyID  kassett.ID   // changes with the password

	retained *retained // nil on storage that retains nothing

	// gate is held for writing while it is unsure whether our lock still
	// stands; see put.
	gate sync.RWMutex
}

// Init makes a new repository with one key. A place that already has a config,
// a key or a snapshot is an [kassett.Exists] error and is left as it is.
func Init(ctx context.Context, st kassett.Storage, password []byte, o InitOptions) (*Repository, error) {
	if err := mustBeEmpty(ctx, st); err != nil {
		return nil, err
	}
	cfg, err := newConfig(o.Version, o.Polynomial)
	if err != nil {
		return nil, fmt.Errorf("make config: %w", err)
	}
	master, err := seal.RandomKey()
	if err != nil {
		return nil, fmt.Errorf("make master key: %w", err)
	}
	return makeRepository(ctx, st, password, sealedConfig{cfg, master}, o)
}

// sealedConfig is what a repository is made of: all places of one have the same.
type sealedConfig struct {
	Config
	key *seal.Key // the master key
}

// makeRepository writes the first key and the config of a repository.
func makeRepository(ctx context.Context, st kassett.Storage, password []byte, c sealedConfig, o InitOptions) (*Repository, error) {
	if o.Scrypt != (Scrypt{}) {
		o.KeyCost = o.Scrypt
	}
	// The config comes last: what has one is a repository.
	id, err := putKey(ctx, st, c.key, keyRequest{password: password, cost: o.KeyCost, user: o.User, host: o.Host})
	if err != nil {
		return nil, err
	}
	plain, err := json.Marshal(c.Config)
	if err != nil {
		return nil, err
	}
	sealed := c.key.Seal(nil, plain) // never compressed
	place := kassett.Hash(sealed)
	if err := st.Put(ctx, kassett.Handle{Kind: kassett.ConfigFile}, kassett.BytesBody(sealed, place)); err != nil {
		return nil, errors.Join(fmt.Errorf("write config: %w", err), removeLoneKey(ctx, st, id))
	}
	return (&Repository{storage: st, options: o.Options, key: c.key, config: c.Config, keyID: id, place: place}).start(), nil
}

// removeLoneKey removes the key of an init that could not write its config, so
// that it can be tried again; unless the config is there all the same.
func removeLoneKey(ctx context.Context, st kassett.Storage, id kassett.ID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	if _, err := st.Stat(ctx, kassett.Handle{Kind: kassett.ConfigFile}); kassett.KindOf(err) != kassett.NotFound {
		return nil
	}
	h := kassett.Handle{Kind: kassett.KeyFile, ID: id}
	if err := st.Delete(ctx, h); err != nil {
		return &kassett.Error{
			Op: "remove", What: h.String(), Kind: kassett.KindOf(err), Err: err,
			Hint: "empty the place before init is run again",
		}
	}
	return nil
}

func mustBeEmpty(ctx context.Context, st kassett.Storage) error {
	exists := func(what string) error {
		return &kassett.Error{
			Op: "make repository", Kind: kassett.Exists, Err: fmt.Errorf("there is %s here already", what),
			Hint: "use the repository that is here, or choose an empty place",
		}
	}
	switch _, err := st.Stat(ctx, kassett.Handle{Kind: kassett.ConfigFile}); {
	case err == nil:
		return exists("a config")
	case kassett.KindOf(err) != kassett.NotFound:
		return fmt.Errorf("look for a config: %w", err)
	}
	for _, k := range []kassett.FileKind{kassett.KeyFile, kassett.SnapshotFile} {
		for info, err := range st.List(ctx, k) {
			if err != nil {
				return fmt.Errorf("list %s: %w", k, err)
			}
			return exists(info.String())
		}
	}
	return nil
}

// Open opens a repository with a password. Where there is none the error is
// [kassett.NotFound], where no key fits it is [kassett.WrongPassword].
func Open(ctx context.Context, st kassett.Storage, password []byte, o Options) (*Repository, error) {
	sealed, err := readConfig(ctx, st)
	if err != nil {
		return nil, err
	}
	id, master, err := findKey(ctx, st, password, o)
	if err != nil {
		return nil, err
	}
	plain, err := master.Open(nil, sealed)
	if err != nil {
		return nil, &kassett.Error{
			Op: "open", What: "config", Kind: kassett.Corrupt, Err: err,
			Hint: mendConfig,
		}
	}
	cfg, err := decodeConfig(plain)
	if err != nil {
		return nil, err
	}
	return (&Repository{storage: st, options: o, key: master, config: cfg, keyID: id, place: kassett.Hash(sealed)}).start(), nil
}

// start makes what an open repository works with.
func (r *Repository) start() *Repository {
	r.table = newTable(r)
	r.retained = newRetained(r)
	return r
}

// Close gives back what the repository holds on this machine. The storage is
// closed by whoever opened it.
func (r *Repository) Close() error {
	r.codec.close()
	return r.table.Close()
}

// Config returns what all writers agree on.
func (r *Repository) Config() Config {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.config
}

// Storage returns where the repository rests.
func (r *Repository) Storage() kassett.Storage { return r.storage }

// Records returns the signed records beside the repository.
func (r *Repository) Records() *record.Store {
	id := r.Config().ID
	return &record.Store{
		Storage: r.storage, Repository: id, Secret: r.key.Subkey("kassett record/1 ed25519", []byte(id)),
		Connections: r.Connections(), Pass: r.pass,
	}
}

// KeyID returns the ID of the key that opened the repository.
func (r *Repository) KeyID() kassett.ID {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.keyID
}

// Connections returns how many storage operations are good side by side.
func (r *Repository) Connections() int {
	if r.options.Connections > 0 {
		return r.options.Connections
	}
	if p, ok := kassett.As[kassett.Parallel](r.storage); ok {
		return p.Connections()
	}
	return defaultConnections
}

// List yields every file of a kind, in no order. After an error it ends.
func (r *Repository) List(ctx context.Context, k kassett.FileKind) iter.Seq2[kassett.Info, error] {
	return func(yield func(kassett.Info, error) bool) {
		for info, err := range r.storage.List(ctx, k) {
			if err != nil {
				yield(kassett.Info{}, fmt.Errorf("list %s: %w", k, err))
				return
			}
			if !yield(info, nil) {
				return
			}
		}
	}
}

// Delete removes a file of the repository.
func (r *Repository) Delete(ctx context.Context, k kassett.FileKind, id kassett.ID) error {
	if err := r.pass(ctx); err != nil {
		return err
	}
	h := kassett.Handle{Kind: k, ID: id}
	if err := r.storage.Delete(ctx, h); err != nil {
		return fmt.Errorf("delete %s: %w", h, err)
	}
	return nil
}

// put stores one file. Everything the engine writes comes through here, but for
// locks: while it is unsure whether our lock still stands, writing waits, and
// when the lock is lost ctx has ended before writing could go on.
func (r *Repository) put(ctx context.Context, h kassett.Handle, body kassett.Body) error {
	if err := r.pass(ctx); err != nil {
		return err
	}
	if err := r.storage.Put(ctx, h, body); err != nil {
		return fmt.Errorf("write %s: %w", h, err)
	}
	return nil
}

// stage begins a pack that is written in pieces.
func (r *Repository) stage(ctx context.Context, to kassett.Stager) (kassett.Staged, error) {
	if err := r.pass(ctx); err != nil {
		return nil, err
	}
	staged, err := to.Stage(ctx, kassett.PackFile)
	if err != nil {
		return nil, fmt.Errorf("begin pack: %w", err)
	}
	return staged, nil
}

// commit stores what was staged under its name, as put does.
func (r *Repository) commit(ctx context.Context, staged kassett.Staged, h kassett.Handle) error {
	if err := r.pass(ctx); err != nil {
		return err
	}
	if err := staged.Commit(ctx, h); err != nil {
		return fmt.Errorf("write %s: %w", h, err)
	}
	return nil
}

// pass waits until the gate is open.
func (r *Repository) pass(ctx context.Context) error {
	r.gate.RLock()
	defer r.gate.RUnlock()
	return context.Cause(ctx)
}

func (r *Repository) warn(err error) {
	if r.options.Warn != nil && err != nil {
		r.options.Warn(err)
	}
}

// readWhole reads one stored file of at most limit bytes.
func readWhole(ctx context.Context, st kassett.Storage, h kassett.Handle, limit int64) (b []byte, err error) {
	rc, err := st.Get(ctx, h, 0, -1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rc.Close()) }()
	b, err = io.ReadAll(io.LimitReader(rc, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, &kassett.Error{
			Op: "read", What: h.String(), Kind: kassett.Corrupt,
			Err: fmt.Errorf("it has more than %d bytes, no %s file is that long", limit, h.Kind),
		}
	}
	return b, nil
}

// thisHost and thisUser are what keys and locks say about their maker; empty
// when the system does not tell.
func thisHost() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

func thisUser() string {
	u, err := user.Current()
	if err != nil {
		return ""
	}
	return u.Username
}
