package repo

import (
	"context"
	"errors"
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

// Migrate applies one migration. The caller holds an exclusive lock.
func (r *Repository) Migrate(ctx context.Context, name string) error {
	return errors.ErrUnsupported
}
