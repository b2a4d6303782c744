package s3

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"kassett"
)

// thawPoll is how long to wait between two looks at what is being thawed.
const thawPoll = time.Minute

// thawAgain is how soon the end of a thawing asks for another one.
const thawAgain = 24 * time.Hour

// Thaw implements [kassett.Thawer] by RestoreObject requests:
// https://docs.aws.amazon.com/AmazonS3/latest/userguide/restoring-objects.html.
func (s *Storage) Thaw(ctx context.Context, packs []kassett.ID, waiting func(int)) error {
	if !s.o.Thaw.On || len(packs) == 0 {
		return nil
	}
	until := time.Now().Add(s.o.Thaw.Timeout)
	cold, err := s.stillCold(ctx, packs, true)
	for err == nil && len(cold) > 0 {
		if waiting != nil {
			waiting(len(cold))
		}
		if time.Until(until) < s.poll {
			return &kassett.Error{
				Op: "thaw packs", What: s.place(), Kind: kassett.Offline,
				Err:  fmt.Errorf("%d of %d cannot be read yet after %s", len(cold), len(packs), s.o.Thaw.Timeout),
				Hint: "they were asked for: run the same command again in some hours, or wait longer with -o s3.restore-timeout",
			}
		}
		if err = pause(ctx, s.poll); err == nil {
			cold, err = s.stillCold(ctx, cold, false)
		}
	}
	return s.fault("thaw packs", s.place(), err)
}

// stillCold returns those packs that cannot be read yet. When it is the first
// look at them, cold ones are asked for.
func (s *Storage) stillCold(ctx context.Context, packs []kassett.ID, ask bool) ([]kassett.ID, error) {
	cold := make([]atomic.Bool, len(packs))
	g, each := errgroup.WithContext(ctx)
	g.SetLimit(s.o.Connections)
	for i, id := range packs {
		if each.Err() != nil {
			break
		}
		g.Go(func() error {
			is, err := s.isCold(each, kassett.Handle{Kind: kassett.PackFile, ID: id}, ask)
			cold[i].Store(is)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var left []kassett.ID
	for i := range packs {
		if cold[i].Load() {
			left = append(left, packs[i])
		}
	}
	return left, ctx.Err()
}

// isCold reports whether a pack cannot be read yet, and may ask for it.
func (s *Storage) isCold(ctx context.Context, h kassett.Handle, ask bool) (bool, error) {
	n := kassett.StoredName{Handle: h}
	in, err := s.stat(ctx, n)
	if isNotFound(err) {
		return false, nil
	} else if err != nil {
		return false, s.fault("thaw pack", h.ID.String(), err)
	}
	switch in.Metadata.Get("X-Amz-Storage-Class") { // heads say the class in no other place
	case "GLACIER", "DEEP_ARCHIVE":
	default:
		return false, nil
	}
	thawing := in.Restore != nil && in.Restore.OngoingRestore
	warm := in.Restore != nil && !thawing && !in.Restore.ExpiryTime.IsZero()
	if thawing || warm && time.Until(in.Restore.ExpiryTime) > thawAgain || !ask {
		return !warm, nil
	}
	var req minio.RestoreRequest
	req.SetDays(s.o.Thaw.Days)
	req.SetGlacierJobParameters(minio.GlacierJobParameters{Tier: minio.TierType(s.o.Thaw.Tier)})
	err = s.core.RestoreObject(ctx, s.o.Bucket, s.key(n), "", req)
	answer := minio.ToErrorResponse(err)
	if answer.Code == "RestoreAlreadyInProgress" || answer.StatusCode == http.StatusConflict {
		err = nil // another run has asked
	}
	return !warm, s.fault("thaw pack", h.ID.String(), err)
}
