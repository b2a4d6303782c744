package repo

import "path/filepath"

// CacheDir returns where this machine keeps a cache of the given name for this
// place of the repository, and "" when it keeps none. The folder need not be
// there.
func (r *Repository) CacheDir(name string) string {
	if r.options.CacheDir == "" {
		return ""
	}
	return filepath.Join(r.options.CacheDir, r.Config().ID, name, r.place.Short())
}

// CacheKey returns a secret of 32 bytes by which one file of a cache of the
// given name is sealed. It follows from the master key, so that who has the
// cache and no password reads nothing; other names and salts give unrelated
// secrets.
func (r *Repository) CacheKey(name string, salt []byte) []byte {
	return r.key.Subkey("kassett cache "+name, salt)
}
