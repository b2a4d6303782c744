package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"kassett"
)

// UpgradeV2 is the migration that makes a repository of version 1 one of
// version 2, named as restic names it.
const UpgradeV2 = "upgrade_repo_v2"

// Migrations returns the names of the migrations that can be applied to the
// repository as it is.
func (r *Repository) Migrations() []string {
	if r.Config().Version == 1 {
		return []string{UpgradeV2}
	}
	return nil
}

// Migrate applies one migration. The caller holds an exclusive lock. One that is
// unknown, or done already, is an [kassett.Invalid] error.
//
// The config is the one file that must be replaced: the old one is copied away
// first, and put back if the new one cannot be written. If even that fails the
// error says where the copy is.
func (r *Repository) Migrate(ctx context.Context, name string) error {
	invalid := func(why string) error {
		return &kassett.Error{Op: "migrate", What: fmt.Sprintf("%.40q", name), Kind: kassett.Invalid, Err: errors.New(why)}
	}
	if name != UpgradeV2 {
		return invalid("there is no such migration")
	}
	if v := r.Config().Version; v != 1 {
		return invalid(fmt.Sprintf("the repository has version %d already", v))
	}
	old, err := readConfig(ctx, r.storage)
	if err != nil {
		return err
	}
	plain, err := r.key.Open(nil, old)
	if err != nil {
		return fmt.Errorf("open config: %w", err)
	}
	cfg, next, err := upgradeConfig(plain)
	if err != nil {
		return err
	}
	if err := r.pass(ctx); err != nil {
		return err
	}
	where, remove, err := r.copyAway(ctx, old)
	if err != nil {
		return fmt.Errorf("copy the config away: %w", err)
	}
	// Between here and the end the repository may have no config: nobody
	// interrupts that.
	ctx = context.WithoutCancel(ctx)
	err = replaceConfig(ctx, r.storage, old, r.key.Seal(nil, next), where)
	if err != nil && sameConfig(ctx, r.storage, old) != nil {
		return err // the copy is needed
	}
	if err == nil {
		r.mu.Lock()
		r.config = cfg
		r.mu.Unlock()
	}
	if err := remove(ctx); err != nil {
		r.warn(fmt.Errorf("remove the copy of the old config, %s: %w", where, err))
	}
	return err
}

// upgradeConfig returns the config of version 2 for one of version 1, as it is
// read and as it is written. Fields that are unknown here stay.
func upgradeConfig(plain []byte) (Config, []byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(plain, &fields); err != nil {
		return Config{}, nil, &kassett.Error{Op: "read config", Kind: kassett.Corrupt, Err: err}
	}
	fields["version"] = json.RawMessage("2")
	next, err := json.Marshal(fields)
	if err != nil {
		return Config{}, nil, err
	}
	cfg, err := decodeConfig(next)
	return cfg, next, err
}

// copyAway stores the sealed config where it survives a crash, and returns where
// that is and how to remove it.
func (r *Repository) copyAway(ctx context.Context, sealed []byte) (where string, remove func(context.Context) error, err error) {
	sum := kassett.Hash(sealed)
	if beside, ok := kassett.As[kassett.Beside](r.storage); ok {
		name := configCopy + sum.Short()
		err := beside.PutBeside(ctx, name, kassett.BytesBody(sealed, sum))
		if kassett.KindOf(err) == kassett.Exists {
			err = nil // from an earlier attempt: the name is that of the bytes
		}
		return "kassett/" + name + " in the repository", func(ctx context.Context) error { return beside.DeleteBeside(ctx, name) }, err
	}
	f, err := os.CreateTemp("", "kassett-config-*")
	if err != nil {
		return "", nil, err
	}
	_, err = f.Write(sealed)
	err = errors.Join(err, f.Sync(), f.Close())
	return f.Name() + " on this machine", func(context.Context) error { return os.Remove(f.Name()) }, err
}

// replaceConfig removes the config old and puts next in its place, or old again.
func replaceConfig(ctx context.Context, st kassett.Storage, old, next []byte, where string) error {
	h := kassett.Handle{Kind: kassett.ConfigFile}
	err := st.Delete(ctx, h)
	if err == nil {
		if err = st.Put(ctx, h, kassett.BytesBody(next, kassett.Hash(next))); err == nil {
			err = sameConfig(ctx, st, next)
		}
	}
	if err == nil || sameConfig(ctx, st, next) == nil {
		return nil
	}
	// A delete or put that failed may have been done all the same.
	if sameConfig(ctx, st, old) == nil {
		return &kassett.Error{Op: "replace config", Kind: kassett.KindOf(err), Err: err, Hint: "nothing was changed; try again"}
	}
	_ = st.Delete(ctx, h) // half a config, if any; what counts is the put
	back := st.Put(ctx, h, kassett.BytesBody(old, kassett.Hash(old)))
	if back == nil {
		return &kassett.Error{Op: "replace config", Kind: kassett.KindOf(err), Err: err, Hint: "the old config is back in its place; try again"}
	}
	return &kassett.Error{
		Op: "replace config", Kind: kassett.KindOf(err),
		Err:  errors.Join(err, fmt.Errorf("put the old config back: %w", back)),
		Hint: "the repository has no config now; copy " + where + " to its place, the file named config",
	}
}

// sameConfig reports an error unless the stored config is want.
func sameConfig(ctx context.Context, st kassett.Storage, want []byte) error {
	have, err := readWhole(ctx, st, kassett.Handle{Kind: kassett.ConfigFile}, maxConfig)
	if err == nil && !bytes.Equal(have, want) {
		err = &kassett.Error{Op: "read config", Kind: kassett.Corrupt, Err: errNotSame}
	}
	return err
}
