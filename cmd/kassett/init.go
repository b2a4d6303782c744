package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/restic/chunker"
	"github.com/spf13/cobra"

	"kassett/repo"
)

func (a *app) initCommand() *cobra.Command {
	var (
		from       = place{prefix: "FROM_"}
		copyParams bool
		format     string
	)
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a new repository",
		Long: `Init makes a new, empty repository and its first key.

The password cannot be got back: without it nobody reads the repository, we do
not either. Keep it on paper in another building. More passwords, for other
people, are made with kassett key add.

To copy snapshots between repositories later so that equal content is stored
once, give both the same chunker parameters with --copy-chunker-params.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.init(cmd.Context(), from, copyParams, format)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&copyParams, "copy-chunker-params", false, "cut content as the repository of --from-repo does")
	f.StringVar(&format, "repository-version", "stable", "`version` of the format: 1, 2, stable or latest")
	from.register(f)
	return cmd
}

func (a *app) init(ctx context.Context, from place, copyParams bool, format string) (err error) {
	o := repo.InitOptions{}
	switch format {
	case "1":
		o.Version = 1
	case "2", "stable", "latest":
		o.Version = 2
	default:
		return invalid("read repository version", safe(format), "use 2; 1 only for programs that know nothing newer", nil)
	}
	opts, err := a.repoOptions(a.flags.where)
	if err != nil {
		return err
	}
	o.Options = opts
	where, err := a.location(a.flags.where)
	if err != nil {
		return err
	}
	if copyParams {
		if o.Polynomial, err = a.polynomial(ctx, from); err != nil {
			return err
		}
	}
	pw, err := a.firstPassword(ctx, a.flags.where)
	if err != nil {
		return err
	}
	st, err := a.openStorage(ctx, where, mayCreate)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeStorage(st)) }()
	r, err := repo.Init(ctx, st, pw, o)
	if err != nil {
		return err
	}
	id := r.Config().ID
	if err := r.Close(); err != nil {
		return fmt.Errorf("close repository: %w", err)
	}
	if a.flags.json {
		return a.json(struct {
			MessageType string `json:"message_type"`
			ID          string `json:"id"`
			Repository  string `json:"repository"`
		}{"initialized", id, withoutSecret(where)})
	}
	return a.summary("made repository %.10s at %s\n\nKeep the password safe, also on paper: without it nobody can read what is kept here.\n",
		id, safe(withoutSecret(where)))
}

// polynomial returns how another repository cuts content.
func (a *app) polynomial(ctx context.Context, from place) (p chunker.Pol, err error) {
	err = a.withinPlace(ctx, from, unlocked, func(_ context.Context, r *repo.Repository) error {
		p = r.Config().ChunkerPolynomial
		return nil
	})
	if err != nil {
		err = fmt.Errorf("take over chunker parameters: %w", err)
	}
	return p, err
}
