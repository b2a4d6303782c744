package storage

import (
	"context"
	"errors"
	"time"

	"kassett"
)

var _ kassett.Retainer = (*retrying)(nil)

// retainer returns the ability of a storage that is wrapped.
func retainer(inner kassett.Storage) (kassett.Retainer, error) {
	if k, ok := kassett.As[kassett.Retainer](inner); ok {
		return k, nil
	}
	return nil, &kassett.Error{Op: "use storage", Kind: kassett.Invalid, Err: errors.New("it retains no files")}
}

// Retention implements [kassett.Retainer].
func (s *retrying) Retention() kassett.Retention {
	k, err := retainer(s.inner)
	if err != nil {
		return kassett.Retention{}
	}
	return k.Retention()
}

// Clock implements [kassett.Retainer].
func (s *retrying) Clock(ctx context.Context) (time.Time, error) {
	return s.timeOf(ctx, func(k kassett.Retainer) (time.Time, error) { return k.Clock(ctx) })
}

// RetainedUntil implements [kassett.Retainer].
func (s *retrying) RetainedUntil(ctx context.Context, n kassett.StoredName) (time.Time, error) {
	return s.timeOf(ctx, func(k kassett.Retainer) (time.Time, error) { return k.RetainedUntil(ctx, n) })
}

// Retain implements [kassett.Retainer]. Retaining a file twice does no harm.
func (s *retrying) Retain(ctx context.Context, n kassett.StoredName, least, until time.Time) (time.Time, error) {
	return s.timeOf(ctx, func(k kassett.Retainer) (time.Time, error) { return k.Retain(ctx, n, least, until) })
}

func (s *retrying) timeOf(ctx context.Context, ask func(kassett.Retainer) (time.Time, error)) (t time.Time, err error) {
	k, err := retainer(s.inner)
	if err != nil {
		return t, err
	}
	err = s.r.Do(ctx, func(bool) error {
		var err error
		t, err = ask(k)
		return err
	})
	return t, err
}
