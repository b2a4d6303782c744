package main

import (
	"context"
	"maps"
	"slices"
	"strings"

	"kassett"
	"kassett/storage/s3"
)

// openS3 opens a repository in a bucket.
func (a *app) openS3(ctx context.Context, address string, w whether) (kassett.Storage, error) {
	o, err := s3.ParsePlace(address)
	if err != nil {
		return nil, err
	}
	o.Region = a.getenv("AWS_DEFAULT_REGION")
	for _, name := range slices.Sorted(maps.Keys(a.flags.options)) {
		if short, ours := strings.CutPrefix(name, "s3."); ours {
			if err := o.Set(short, a.flags.options[name]); err != nil {
				return nil, err
			}
		}
	}
	tr, err := a.transport()
	if err != nil {
		return nil, err
	}
	o.Transport = tr
	o.Credentials.AccessKey = a.getenv("AWS_ACCESS_KEY_ID")
	o.Credentials.SecretKey = a.getenv("AWS_SECRET_ACCESS_KEY")
	o.Credentials.SessionToken = a.getenv("AWS_SESSION_TOKEN")
	if w == mayCreate {
		return s3.Create(ctx, o)
	}
	return s3.Open(o)
}
