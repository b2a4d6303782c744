package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"kassett"
	"kassett/cmd/kassett/terminal"
	"kassett/repo"
)

func (a *app) keyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "List, add, remove and change passwords",
		Long: `A repository can have several passwords, each with a key of its own. Everyone
who has one can read everything; removing a key locks its owner out only if he
did not take the master key along.`,
		Args: args(1, -1, "list, add, remove or passwd"),
		RunE: func(_ *cobra.Command, given []string) error {
			return invalid("key", terminal.Safe(given[0]), "use kassett key list, add, remove or passwd", errors.New("there is no such command"))
		},
	}
	cmd.AddCommand(a.keyListCommand(), a.keyAddCommand(), a.keyRemoveCommand(), a.keyPasswdCommand())
	return cmd
}

// keyJSON is a key as JSON, with restic's names.
type keyJSON struct {
	Current bool   `json:"current"`
	ID      string `json:"id"`
	User    string `json:"userName"`
	Host    string `json:"hostName"`
	Created string `json:"created"`
	N       int    `json:"scrypt_n"`
	R       int    `json:"scrypt_r"`
	P       int    `json:"scrypt_p"`
}

func (a *app) keyListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the keys; * marks the one in use",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.within(cmd.Context(), reading, func(ctx context.Context, r *repo.Repository) error {
				keys, damaged := r.Keys(ctx)
				if keys == nil && damaged != nil {
					return damaged
				}
				return errors.Join(a.listKeys(keys), damaged)
			})
		},
	}
}

func (a *app) listKeys(keys []repo.Key) error {
	if a.flags.json {
		all := make([]keyJSON, 0, len(keys))
		for _, k := range keys {
			all = append(all, keyJSON{k.Current, k.ID.String(), k.User, k.Host, k.Created.Format(time.RFC3339), k.Scrypt.N, k.Scrypt.R, k.Scrypt.P})
		}
		return a.json(all)
	}
	t := &terminal.Table{Head: []string{"", "ID", "User", "Host", "Created"}}
	for _, k := range keys {
		mark := ""
		if k.Current {
			mark = "*"
		}
		t.Add(mark, k.ID.Short(), k.User, k.Host, terminal.Stamp(k.Created))
	}
	return t.Print(a.out)
}

// newKeyFlags say where a new password comes from.
type newKeyFlags struct{ file, command, user, host string }

func (n *newKeyFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&n.file, "new-password-file", "", "read the new password from `file`")
	f.StringVar(&n.command, "new-password-command", "", "run `command` and read the new password from its output")
}

func (a *app) keyAddCommand() *cobra.Command {
	var n newKeyFlags
	cmd := &cobra.Command{
		Use:   "add [flags]",
		Short: "Add a password",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.within(cmd.Context(), writing, func(ctx context.Context, r *repo.Repository) error {
				pw, err := a.newPassword(ctx, n.file, n.command)
				if err != nil {
					return err
				}
				id, err := r.AddKey(ctx, pw, n.user, n.host)
				if err != nil {
					return err
				}
				return a.keyDone("added", id)
			})
		},
	}
	n.register(cmd)
	cmd.Flags().StringVar(&n.user, "user", "", "the `name` written into the key (default: yours)")
	cmd.Flags().StringVar(&n.host, "host", "", "the `host` written into the key (default: this machine)")
	return cmd
}

func (a *app) keyPasswdCommand() *cobra.Command {
	var n newKeyFlags
	cmd := &cobra.Command{
		Use:   "passwd [flags]",
		Short: "Change the password in use",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.within(cmd.Context(), exclusive, func(ctx context.Context, r *repo.Repository) error {
				pw, err := a.newPassword(ctx, n.file, n.command)
				if err != nil {
					return err
				}
				id, err := r.ChangePassword(ctx, pw)
				if err != nil {
					return err
				}
				return a.keyDone("changed", id)
			})
		},
	}
	n.register(cmd)
	return cmd
}

func (a *app) keyRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "remove ID",
		Short: "Remove a password",
		Args:  args(1, 1, "the ID of a key"),
		RunE: func(cmd *cobra.Command, given []string) error {
			return a.within(cmd.Context(), exclusive, func(ctx context.Context, r *repo.Repository) error {
				id, err := r.Resolve(ctx, kassett.KeyFile, given[0])
				if err != nil {
					return err
				}
				if err := r.RemoveKey(ctx, id); err != nil {
					return err
				}
				return a.keyDone("removed", id)
			})
		},
	}
}

func (a *app) keyDone(did string, id kassett.ID) error {
	if a.flags.json {
		return a.json(map[string]string{"message_type": "key_" + did, "id": id.String()})
	}
	if did == "changed" {
		return a.summary("the password is changed; key %s is in use now, the old one is gone\n", id.Short())
	}
	return a.summary("key %s %s\n", id.Short(), did)
}

func (a *app) unlockCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "unlock [flags]",
		Short: "Remove locks that nobody holds any more",
		Long: `Unlock removes stale locks: older than half an hour without a refresh, or of a
process of this machine that is gone. With --remove-all it removes every lock;
do that only when you know that nothing is at work on the repository.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.within(cmd.Context(), unlocked, func(ctx context.Context, r *repo.Repository) error {
				n, err := r.RemoveLocks(ctx, all)
				if a.flags.json {
					return errors.Join(a.json(map[string]any{"message_type": "summary", "removed_locks": n}), err)
				}
				return errors.Join(a.summary("%s removed\n", terminal.Plural(n, "lock", "locks")), err)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "remove-all", false, "remove every lock, also those in use")
	return cmd
}

func (a *app) migrateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate [NAME]",
		Short: "Bring a repository to a newer version of the format",
		Long: `Migrate without a name lists what can be done with the repository. With the name
it does it: upgrade_repo_v2 makes a repository of version 1 one of version 2,
which can be compressed. Afterwards prune --repack-uncompressed compresses what
is there.`,
		Args: args(0, 1, "at most one migration"),
		RunE: func(cmd *cobra.Command, given []string) error {
			return a.within(cmd.Context(), exclusive, func(ctx context.Context, r *repo.Repository) error {
				if len(given) == 0 {
					return a.listMigrations(r.Migrations())
				}
				if err := r.Migrate(ctx, given[0]); err != nil {
					return err
				}
				if a.flags.json {
					return a.json(map[string]string{"message_type": "migrated", "name": given[0]})
				}
				return a.summary("%s is done; kassett prune --repack-uncompressed compresses what is there\n", given[0])
			})
		},
	}
	return cmd
}

func (a *app) listMigrations(names []string) error {
	if a.flags.json {
		return a.json(append([]string{}, names...))
	}
	if len(names) == 0 {
		return a.summary("nothing to migrate: the repository is of the newest version\n")
	}
	for _, n := range names {
		if err := a.print("%s\n", n); err != nil {
			return err
		}
	}
	return nil
}
