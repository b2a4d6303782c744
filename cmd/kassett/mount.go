package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"kassett/cmd/kassett/terminal"
	"kassett/mount"
	"kassett/repo"
)

func (a *app) mountCommand() *cobra.Command {
	var x mountFlags
	cmd := &cobra.Command{
		Use:   "mount [flags] MOUNTPOINT | mount [flags] --webdav ADDRESS",
		Short: "Look into snapshots as into folders, without restoring",
		Long: `Mount shows the repository as a file system that cannot be written, at an empty
folder of this machine, until it is unmounted or this command is stopped with
Ctrl-C. All snapshots are there: by time in snapshots/, by host in hosts/, by
tag in tags/ and by ID in ids/; "latest" leads to the youngest. New snapshots
appear by themselves.

  mkdir /mnt/backup && kassett mount /mnt/backup
  cp /mnt/backup/snapshots/latest/srv/journal.sql .

With --webdav the same is served over WebDAV, for systems without FUSE: Windows
(net use Z: http://127.0.0.1:8080), macOS (Finder, Go, Connect to Server), or a
browser. Without a password only programs of this machine are let in, of every
user of it. Another address needs a password and a certificate.

Time templates are layouts of the moment "Mon Jan 2 15:04:05 -0700 MST 2006",
such as "2006-01-02_15-04-05". In path templates %i is a snapshot's short ID,
%I the long one, %h its host, %u its user, %t each of its tags, %T its time.`,
		Args: args(0, 1, "a mountpoint, or --webdav and an address"),
		RunE: func(cmd *cobra.Command, given []string) error {
			if err := x.check(given); err != nil {
				return err
			}
			if x.dav.address != "" {
				return a.serveDAV(cmd.Context(), x)
			}
			at, err := a.mountpoint(given[0])
			if err != nil {
				return err
			}
			return a.mount(cmd.Context(), at, x)
		},
	}
	x.register(cmd.Flags())
	return cmd
}

// mountFlags are the flags of mount.
type mountFlags struct {
	filter                               filterFlags
	allowOther, noPermissions, ownerRoot bool
	paths                                []string
	time                                 string
	dav                                  davFlags
}

func (x *mountFlags) register(f *pflag.FlagSet) {
	x.filter.register(f, "H")
	f.BoolVar(&x.allowOther, "allow-other", false, "let other users of this machine in")
	f.BoolVar(&x.noPermissions, "no-default-permissions", false, "with --allow-other: let them read everything, whatever owner and mode it has")
	f.BoolVar(&x.ownerRoot, "owner-root", false, "show everything as root's")
	f.StringArrayVar(&x.paths, "path-template", mount.DefaultPaths(), "show snapshots at the `template` (may be given again)")
	f.StringVar(&x.time, "time-template", time.RFC3339, "write times by the `template`")
	f.StringVar(&x.time, "snapshot-template", time.RFC3339, "write times by the `template`")
	_ = f.MarkDeprecated("snapshot-template", "use --time-template") // it was just made
	f.StringVar(&x.dav.address, "webdav", "", "serve over WebDAV at `address`, as 127.0.0.1:8080")
	f.StringVar(&x.dav.passwordFile, "webdav-password-file", "", "let in who knows the password in `file` (default: $KASSETT_WEBDAV_PASSWORD)")
	f.StringVar(&x.dav.cert, "tls-cert", "", "serve WebDAV over TLS with the certificate in `file`")
	f.StringVar(&x.dav.key, "tls-key", "", "the certificate's key is in `file`")
}

// check finds flags that make no sense.
func (x *mountFlags) check(given []string) error {
	const op = "mount"
	switch {
	case x.dav.address == "" && len(given) == 0:
		return invalid(op, "", "name an empty folder, or --webdav 127.0.0.1:8080", errors.New("there is no mountpoint"))
	case x.dav.address != "" && len(given) > 0:
		return invalid(op, terminal.Safe(given[0]), "run mount twice for both", errors.New("a mountpoint and --webdav do not go together"))
	case x.dav.address == "" && (x.dav.passwordFile != "" || x.dav.cert != "" || x.dav.key != ""):
		return invalid(op, "", "add --webdav ADDRESS or leave these flags out", errors.New("password, certificate and key are for --webdav"))
	case x.noPermissions && !x.allowOther:
		return invalid(op, "", "add --allow-other or leave it out", errors.New("--no-default-permissions means nothing without --allow-other"))
	case x.time == "" || strings.HasPrefix(x.time, "/") || strings.HasSuffix(x.time, "/"):
		return invalid(op, terminal.Safe(x.time), "use a template such as 2006-01-02_15-04-05", errors.New("a time template is not empty and neither begins nor ends with a slash"))
	}
	return nil
}

// mountpoint returns the absolute path of a folder that is good to mount at. It
// is looked at before anybody types a password.
func (a *app) mountpoint(given string) (string, error) {
	at, err := filepath.Abs(given)
	if err != nil {
		return "", fmt.Errorf("mount at %s: %w", terminal.Safe(given), err)
	}
	if straight, err := filepath.EvalSymlinks(at); err == nil {
		at = straight
	}
	if err := mount.CheckMountpoint(at); err != nil {
		return "", err
	}
	where, err := a.location(a.flags.where)
	if err != nil {
		return "", err
	}
	kind, dir := splitPlace(where)
	if kind != "local" {
		return at, nil
	}
	if dir, err = filepath.Abs(dir); err == nil {
		if straight, err := filepath.EvalSymlinks(dir); err == nil {
			dir = straight
		}
	}
	if inside(dir, at) || inside(at, dir) {
		return "", invalid("mount at", terminal.Safe(at), "mount at a folder outside of the repository", errors.New("the mount would hide the repository that it reads"))
	}
	return at, nil
}

// inside reports whether a path is a folder or something in it.
func inside(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, strings.TrimSuffix(folder, string(filepath.Separator))+string(filepath.Separator))
}

// show runs serve with the view of the repository.
func (a *app) show(ctx context.Context, x mountFlags, serve func(ctx context.Context, v *mount.View) error) error {
	return a.within(ctx, reading, func(ctx context.Context, r *repo.Repository) error {
		if err := a.loadIndex(ctx, r); err != nil {
			return err
		}
		v, err := mount.NewView(ctx, r, mount.Options{
			Filter: x.filter.filter(), Templates: mount.Templates{Paths: x.paths, Time: x.time},
			Warn:   a.warn,
			Notice: func(text string) { a.notice("", errors.New(text)) },
		})
		if err != nil {
			return err
		}
		defer v.Close()
		if err := serve(ctx, v); err != nil {
			return err
		}
		if ctx.Err() != nil && !stopped(ctx) {
			return context.Cause(ctx) // the lock was lost
		}
		return nil
	})
}

// leaveTime is how long programs have to leave a mount that was taken away.
const leaveTime = 2 * time.Second

// mount mounts the repository until somebody ends it. Being stopped is how a
// mount ends, not a failure.
func (a *app) mount(ctx context.Context, at string, x mountFlags) error {
	return a.show(ctx, x, func(ctx context.Context, v *mount.View) error {
		m, err := v.Mount(at, mount.FUSEOptions{
			AllowOther: x.allowOther, NoPermissions: x.noPermissions, OwnerRoot: x.ownerRoot,
			UID: uint32(max(0, os.Getuid())), GID: uint32(max(0, os.Getgid())), //nolint:gosec // IDs of this system
		})
		if err != nil {
			return err
		}
		if err := a.serving("mounted", at, "the repository is mounted at "+at+", read-only",
			"Ctrl-C here, or umount "+at+", ends it"); err != nil {
			return errors.Join(err, m.Unmount())
		}
		select {
		case <-m.Done():
			return nil
		case <-ctx.Done():
		}
		err = m.Unmount()
		if err == nil {
			return nil
		}
		// Who still looks in gets errors from now on, which is better than a
		// mount that is dead and in the way.
		if failed := detach(context.WithoutCancel(ctx), at); failed != nil {
			return errors.Join(err, failed)
		}
		a.warn("", err)
		a.notice("", errors.New("the mount was taken away all the same; programs that still use it get errors"))
		late := time.NewTimer(leaveTime)
		defer late.Stop()
		select {
		case <-m.Done():
		case <-late.C: // the end of this process ends it for them
		}
		return nil
	})
}

// serving tells where the repository can be looked at now.
func (a *app) serving(event, at string, lines ...string) error {
	if a.flags.json {
		err := a.json(struct {
			MessageType string `json:"message_type"`
			Place       string `json:"place"`
		}{event, at})
		return errors.Join(err, a.out.Flush())
	}
	if a.flags.quiet {
		return nil
	}
	for _, l := range lines {
		a.ui.Line(terminal.Safe(l))
	}
	return nil
}
