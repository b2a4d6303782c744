package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/restic/chunker"
	"github.com/spf13/cobra"

	"kassett/cmd/kassett/terminal"
	"kassett/repo"
	"kassett/repo/parity"
)

func (a *app) initCommand() *cobra.Command {
	var (
		from       = place{prefix: "FROM_"}
		copyParams bool
		replicaOf  string
		format     string
		overhead   string
	)
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a new repository",
		Long: `Init makes a new, empty repository and its first key.

The password cannot be got back: without it nobody reads the repository, we do
not either. Keep it on paper in another building. More passwords, for other
people, are made with kassett key add.

To copy snapshots between repositories later so that equal content is stored
once, give both the same chunker parameters with --copy-chunker-params.

With --replica-of the new repository is a second place of another one: it gets
that one's ID, master key and chunker parameters, and a password of its own.
kassett copy then moves packs as they are, and snapshots have the same ID in
both. Who can read one place can read both, so keep them in the hands of the
same people. The password of the other place is named by the --from flags.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if replicaOf != "" {
				if from.repo != "" || from.repoFile != "" || copyParams {
					return invalid("make replica", "", "leave --from-repo and --copy-chunker-params out: --replica-of names the other place, and takes over its parameters",
						errors.New("the other repository is named twice"))
				}
				from.repo = replicaOf
			}
			return a.init(cmd.Context(), initRequest{from: from, copyParams: copyParams, replica: replicaOf != "", format: format, parity: overhead})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&copyParams, "copy-chunker-params", false, "cut content as the repository of --from-repo does")
	f.StringVar(&replicaOf, "replica-of", "", "make a second place of this `repository`, with its ID and master key")
	f.StringVar(&overhead, "parity", "0", "keep this much parity beside the packs: a `percentage`, such as 5%")
	f.StringVar(&format, "repository-version", "stable", "`version` of the format: 1, 2, stable or latest")
	from.register(f)
	return cmd
}

// initRequest is what is to be made.
type initRequest struct {
	from       place // the other repository, if one is needed
	copyParams bool
	replica    bool
	format     string
	parity     string
}

func (a *app) init(ctx context.Context, req initRequest) error {
	o := repo.InitOptions{}
	switch req.format {
	case "1":
		o.Version = 1
	case "2", "stable", "latest":
		o.Version = 2
	default:
		return invalid("read repository version", terminal.Safe(req.format), "use 2; 1 only for programs that know nothing newer", nil)
	}
	overhead, err := parity.ParseOverhead(req.parity)
	if err != nil {
		return err
	}
	if o.Options, err = a.repoOptions(a.flags.where); err != nil {
		return err
	}
	if req.replica {
		return a.withinPlace(ctx, req.from, unlocked, func(ctx context.Context, like *repo.Repository) error {
			return a.makeRepository(ctx, like, o, overhead)
		})
	}
	if req.copyParams {
		if o.Polynomial, err = a.polynomial(ctx, req.from); err != nil {
			return err
		}
	}
	return a.makeRepository(ctx, nil, o, overhead)
}

// makeRepository makes the repository that the flags name: a second place of
// like, unless that is nil.
func (a *app) makeRepository(ctx context.Context, like *repo.Repository, o repo.InitOptions, overhead parity.Overhead) (err error) {
	where, err := a.location(a.flags.where)
	if err != nil {
		return err
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
	var r *repo.Repository
	if like != nil {
		r, err = repo.InitReplica(ctx, st, pw, like, o)
	} else {
		r, err = repo.Init(ctx, st, pw, o)
	}
	if err != nil {
		return err
	}
	id := r.Config().ID
	if overhead > 0 {
		if err := r.SetParity(ctx, overhead); err != nil {
			return errors.Join(fmt.Errorf("set parity: %w", err), r.Close())
		}
	}
	if err := r.Close(); err != nil {
		return fmt.Errorf("close repository: %w", err)
	}
	if a.flags.json {
		return a.json(struct {
			MessageType string `json:"message_type"`
			ID          string `json:"id"`
			Repository  string `json:"repository"`
			Replica     bool   `json:"replica,omitempty"`
		}{"initialized", id, withoutSecret(where), like != nil})
	}
	if like != nil {
		return a.summary("made a second place of repository %.10s at %s\n\nFill it with kassett copy. It has its own password, and the master key of the first place:\nwho reads one reads both.\n",
			id, terminal.Safe(withoutSecret(where)))
	}
	return a.summary("made repository %.10s at %s\n\nKeep the password safe, also on paper: without it nobody can read what is kept here.\n",
		id, terminal.Safe(withoutSecret(where)))
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
