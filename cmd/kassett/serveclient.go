package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kassett"
	"kassett/cmd/kassett/terminal"
	"kassett/storage/rest"
)

func (a *app) serveClientCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "client",
		Short: "List and add the clients of a storage server",
		Long: `The clients file of kassett serve storage has one client a line, and may be
changed by hand; what is wrong in it is named with the number of the line:

  NAME password=HASH rights=append,data path=site/host quota=500GiB

password    a hash by bcrypt, as this command and htpasswd -B make it
certificate required: a certificate in the client's name is needed; without
            password=, it is enough
rights      metadata  list, and read everything but packs
            data      read packs too, that is: restore
            append    store what is new, remove its own locks
            init      make a repository, with its first key
            full      everything, removing included
path        the repositories it reaches, with commas; site/* is all below site
quota       bytes a repository may hold when this client adds to it
floor       how long a snapshot has been here before a client with the right
            full may remove it: 30d, 36h`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.serveClientAddCommand(), a.serveClientListCommand())
	return cmd
}

func (a *app) serveClientAddCommand() *cobra.Command {
	var file, rights, path, quota, floor string
	var cert, noPassword bool
	cmd := &cobra.Command{
		Use:   "add NAME --clients FILE [flags]",
		Short: "Add a client to a clients file",
		Long: `Add appends a client's line to the clients file, and makes the file if it is not
there. The password is typed twice, or read from the first line of stdin: give
the client the same, in KASSETT_REST_PASSWORD, or in RESTIC_REST_PASSWORD for
restic.`,
		Args: args(1, 1, "the client's name"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			c := rest.Client{Name: args[0], Cert: cert || noPassword, Paths: strings.Split(path, ",")}
			if path == "" {
				c.Paths = []string{c.Name}
			}
			if c.Rights, err = rest.ParseRights(rights); err != nil {
				return invalid("add client", terminal.Safe(c.Name), "", err)
			}
			if quota != "" {
				if c.Quota, err = rest.ParseSize(quota); err != nil {
					return invalid("add client", terminal.Safe(c.Name), "", err)
				}
			}
			if floor != "" {
				if c.Floor, err = rest.ParseFloor(floor); err != nil {
					return invalid("add client", terminal.Safe(c.Name), "", err)
				}
			}
			return a.addClient(cmd.Context(), file, &c, !noPassword)
		},
	}
	f := cmd.Flags()
	f.StringVar(&file, "clients", "", "the clients `file`")
	f.StringVar(&rights, "rights", "append,data", "what the client may do: any of `metadata,data,append,init,full`")
	f.StringVar(&path, "path", "", "the repositories it reaches, with commas (default: the one of the client's name)")
	f.StringVar(&quota, "quota", "", "the `bytes` that a repository may hold when the client adds to it, such as 500GiB")
	f.StringVar(&floor, "floor", "", "how long a snapshot has been here before the client may remove it, such as `30d`")
	f.BoolVar(&cert, "certificate", false, "ask for a certificate in the client's name too")
	f.BoolVar(&noPassword, "no-password", false, "ask for a certificate instead of a password")
	return cmd
}

func (a *app) addClient(ctx context.Context, file string, c *rest.Client, withPassword bool) error {
	if file == "" {
		return invalid("add client", terminal.Safe(c.Name), "give it with --clients FILE", errors.New("no clients file is named"))
	}
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read clients: %w", err)
	}
	clients, err := rest.ReadClients(bytes.NewReader(old), terminal.Safe(file))
	if err != nil {
		return err
	}
	for _, other := range clients.All() {
		if other.Name == c.Name {
			return &kassett.Error{
				Op: "add client", What: terminal.Safe(c.Name), Kind: kassett.Exists, Err: errors.New("it has a line already"),
				Hint: "change or take out that line in " + terminal.Safe(file) + " by hand",
			}
		}
	}
	if withPassword {
		pw, err := a.clientPassword(ctx, c.Name)
		if err != nil {
			return err
		}
		if c.Hash, err = rest.HashPassword(pw); err != nil {
			return err
		}
	}
	if err := c.Check(); err != nil {
		return invalid("add client", terminal.Safe(c.Name), "kassett serve client --help says what a client's line holds", err)
	}
	if err := appendLine(file, old, c.String()); err != nil {
		return fmt.Errorf("write clients: %w", err)
	}
	return a.summary("added %s to %s: rights %s, path %s\n", c.Name, terminal.Safe(file), c.Rights, strings.Join(c.Paths, ","))
}

// clientPassword returns the password of a client to be added.
func (a *app) clientPassword(ctx context.Context, name string) ([]byte, error) {
	if a.stdinTerminal {
		return a.askTwice(ctx, "password of the client "+name+": ")
	}
	line, err := bufio.NewReader(io.LimitReader(a.stdin, maxSecret)).ReadBytes('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read password: %w", err)
	}
	return notEmpty(bytes.TrimRight(line, "\r\n"))
}

// appendLine adds a line to a file that only its owner may read.
func appendLine(name string, old []byte, line string) error {
	if len(old) > 0 && old[len(old)-1] != '\n' {
		line = "\n" + line
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Sync(), f.Close())
}

func (a *app) serveClientListCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "list --clients FILE",
		Short: "List the clients of a clients file",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			if file == "" {
				return invalid("list clients", "", "give it with --clients FILE", errors.New("no clients file is named"))
			}
			clients, err := readClients(file)
			if err != nil {
				return err
			}
			return a.listClients(clients)
		},
	}
	cmd.Flags().StringVar(&file, "clients", "", "the clients `file`")
	return cmd
}

func (a *app) listClients(clients *rest.Clients) error {
	type clientJSON struct {
		Name        string   `json:"name"`
		Password    bool     `json:"password"`
		Certificate bool     `json:"certificate"`
		Rights      string   `json:"rights"`
		Paths       []string `json:"paths"`
		Quota       int64    `json:"quota,omitempty"`         // bytes
		Floor       float64  `json:"floor_seconds,omitempty"` // seconds
	}
	all := make([]clientJSON, 0, len(clients.All()))
	t := &terminal.Table{Head: []string{"Client", "Shows", "Rights", "Paths", "Quota", "Floor"}}
	for _, c := range clients.All() {
		all = append(all, clientJSON{c.Name, c.Hash != "", c.Cert, c.Rights.String(), c.Paths, c.Quota, c.Floor.Seconds()})
		var shows []string
		if c.Hash != "" {
			shows = append(shows, "password")
		}
		if c.Cert {
			shows = append(shows, "certificate")
		}
		quota, floor := "", ""
		if c.Quota > 0 {
			quota = terminal.Bytes(c.Quota)
		}
		if c.Floor > 0 {
			floor = fmt.Sprintf("%gd", c.Floor.Hours()/(24*time.Hour).Hours())
		}
		t.Add(c.Name, strings.Join(shows, ", "), c.Rights.String(), strings.Join(c.Paths, "\n"), quota, floor)
	}
	if a.flags.json {
		return a.json(all)
	}
	return t.Print(a.out)
}
