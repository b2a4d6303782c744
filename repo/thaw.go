package repo

import (
	"context"
	"fmt"

	"kassett"
)

// Thaw makes packs readable that the storage keeps in a class that cannot be
// read at once, and waits for them: see [kassett.Thawer]. On other storages it
// does nothing. Whoever is about to read many packs calls it.
func (r *Repository) Thaw(ctx context.Context, packs []kassett.ID, p *kassett.Progress) error {
	t, ok := kassett.As[kassett.Thawer](r.storage)
	if !ok {
		return nil
	}
	return t.Thaw(ctx, packs, func(left int) {
		p.At(fmt.Sprintf("waiting for %d packs of a cold storage class, which takes hours", left))
	})
}
