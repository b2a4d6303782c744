package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"kassett"
	"kassett/cmd/kassett/terminal"
	"kassett/repo/record"
	"kassett/storage/local"
	"kassett/storage/rest"
)

func (a *app) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve other machines",
		Long:  "Serve does work for other machines.",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.serveStorageCommand(), a.serveClientCommand())
	return cmd
}

// serveFlags are the flags of serve storage.
type serveFlags struct {
	listen, data, clients string
	cert, key, clientCA   string
	noTLS                 bool
	log                   string
	connections           int
}

func (f *serveFlags) register(set *pflag.FlagSet) {
	set.StringVar(&f.listen, "listen", "127.0.0.1:8000", "wait for clients at this `address` and port")
	set.StringVar(&f.data, "data", "", "keep the repositories below this `folder`")
	set.StringVar(&f.clients, "clients", "", "let in who has a line in `file`; see kassett serve client")
	set.StringVar(&f.cert, "tls-cert", "", "show clients the certificate in `file`, in PEM form")
	set.StringVar(&f.key, "tls-key", "", "its private key is in `file`")
	set.StringVar(&f.clientCA, "client-ca", "", "know the certificates of clients by the authority in `file`")
	set.BoolVar(&f.noTLS, "no-tls", false, "listen without TLS also where other machines listen: something in front of it encrypts")
	set.StringVar(&f.log, "log", "", "append the log to `file` instead of writing it to stderr; --json makes it JSON")
	set.IntVar(&f.connections, "max-connections", 0, "serve at most `n` connections at once, a quarter of them from one address (default 1024)")
}

func (a *app) serveStorageCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "storage --data FOLDER --clients FILE [flags]",
		Short: "Keep repositories for clients who may add and not take away",
		Long: `Serve storage keeps repositories for other machines, by restic's REST protocol:
kassett and restic there name them rest:https://HOST:8000/PATH/.

A client may do what its line in the clients file says. One with the rights
append,data backs up and restores; it cannot overwrite or delete anything but
the locks it made, and cannot make keys. Only a client with the right full
removes, within floors and holds: let that be the host that runs forget and
prune, or run these on this machine in the folder itself.

The log names every refusal: who, from where, what, and why. A changed clients
file counts within seconds. SIGTERM ends the server when requests under way
have ended.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.serveStorage(cmd.Context(), f) },
	}
	f.register(cmd.Flags())
	return cmd
}

func (a *app) serveStorage(ctx context.Context, f serveFlags) (err error) {
	data, err := f.folder()
	if err != nil {
		return err
	}
	clients, err := readClients(f.clients)
	if err != nil {
		return err
	}
	config, err := f.tls()
	if err != nil {
		return err
	}
	log, closeLog, err := a.serveLog(f.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeLog()) }()
	l, err := f.open(ctx, config != nil)
	if err != nil {
		return err
	}
	handler := rest.NewHandler(rest.Config{Open: servedFolders(data).open, Clients: clients, Records: judge{}, Log: log})
	scheme := "http"
	if config != nil {
		scheme = "https"
	}
	log.Info("serving", "at", scheme+"://"+l.Addr().String()+"/", "data", data, "clients", len(clients.All()), "version", version)
	watching, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		watchClients(watching, f.clients, handler, log)
	}()
	err = rest.Serve(ctx, l, handler, rest.ServeOptions{TLS: config, Log: log, Connections: f.connections})
	stop()
	<-watched
	err = errors.Join(err, handler.Close(context.WithoutCancel(ctx)))
	log.Info("stopped")
	return err
}

// folder returns the folder of the repositories, which has to be there: an
// empty mount point must not be taken for a server without repositories.
func (f *serveFlags) folder() (string, error) {
	if f.data == "" || f.clients == "" {
		return "", invalid("serve storage", "", "give --data FOLDER and --clients FILE; kassett serve client add makes a clients file",
			errors.New("it is not said what to serve, and to whom"))
	}
	data, err := filepath.Abs(f.data)
	if err != nil {
		return "", err
	}
	switch fi, err := os.Stat(data); {
	case errors.Is(err, fs.ErrNotExist):
		return "", &kassett.Error{
			Op: "serve storage", What: terminal.Safe(data), Kind: kassett.NotFound, Err: errors.New("no such folder"),
			Hint: "check that the disk is mounted; or make the folder, for the user that runs the server only",
		}
	case err != nil:
		return "", err
	case !fi.IsDir():
		return "", invalid("serve storage", terminal.Safe(data), "name a folder", errors.New("it is a file"))
	}
	return data, nil
}

// tls returns how connections are encrypted, nil for not at all.
func (f *serveFlags) tls() (*tls.Config, error) {
	switch {
	case f.cert == "" && f.key == "" && f.clientCA == "":
		return nil, nil //nolint:nilnil // none is asked for
	case f.cert == "" || f.key == "":
		return nil, invalid("serve storage", "", "give both --tls-cert and --tls-key", errors.New("one of certificate and key is missing"))
	}
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, invalid("read certificate", terminal.Safe(f.cert), "name PEM files: the certificate with those above it, and its key", err)
	}
	c := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if f.clientCA == "" {
		return c, nil
	}
	text, err := os.ReadFile(f.clientCA)
	if err != nil {
		return nil, fmt.Errorf("read the authority of clients: %w", err)
	}
	c.ClientAuth, c.ClientCAs = tls.VerifyClientCertIfGiven, x509.NewCertPool()
	if !c.ClientCAs.AppendCertsFromPEM(text) {
		return nil, invalid("read the authority of clients from", terminal.Safe(f.clientCA), "name a file in PEM form", errors.New("no certificate is in it"))
	}
	return c, nil
}

// open opens the server's address. Passwords do not go across a network in
// plain text, unless somebody says so.
func (f *serveFlags) open(ctx context.Context, encrypted bool) (net.Listener, error) {
	host, port, err := net.SplitHostPort(f.listen)
	if err != nil {
		return nil, invalid("serve storage at", terminal.Safe(f.listen), "give an address and a port, as 127.0.0.1:8000 or :8000 for all addresses", err)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if ip := net.ParseIP(host); !encrypted && !f.noTLS && (ip == nil || !ip.IsLoopback()) {
		return nil, &kassett.Error{
			Op: "serve storage at", What: terminal.Safe(f.listen), Kind: kassett.Denied,
			Err:  errors.New("passwords would cross the network in plain text"),
			Hint: "give --tls-cert and --tls-key; or --no-tls if something in front of the server encrypts",
		}
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, &kassett.Error{
			Op: "serve storage at", What: terminal.Safe(f.listen), Kind: kassett.Denied, Err: err,
			Hint: "use another port; another program may use this one",
		}
	}
	return l, nil
}

// serveLog returns where the server says what it does, and what closes it.
func (a *app) serveLog(name string) (*slog.Logger, func() error, error) {
	w, end := a.stderr, func() error { return nil }
	if name != "" {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, nil, fmt.Errorf("open log: %w", err)
		}
		w, end = f, f.Close
	}
	if a.flags.json {
		return slog.New(slog.NewJSONHandler(w, nil)), end, nil
	}
	return slog.New(slog.NewTextHandler(w, nil)), end, nil
}

// clientsEvery is how often the clients file is looked at.
const clientsEvery = 2 * time.Second

// watchClients takes over the clients file whenever it has changed. One that is
// wrong is named in the log, and the old one goes on counting.
func watchClients(ctx context.Context, name string, h *rest.Handler, log *slog.Logger) {
	state := func() string {
		fi, err := os.Stat(name)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprint(fi.Size(), fi.ModTime())
	}
	tick := time.NewTicker(clientsEvery)
	defer tick.Stop()
	for last := state(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := state()
		if now == last {
			continue
		}
		last = now
		clients, err := readClients(name)
		if err != nil {
			log.Error("clients file not taken over: the old one counts", "why", err.Error(), "next", kassett.HintOf(err))
			continue
		}
		h.SetClients(clients)
		log.Info("clients file taken over", "clients", len(clients.All()))
	}
}

func readClients(name string) (*rest.Clients, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &kassett.Error{
			Op: "read clients", What: terminal.Safe(name), Kind: kassett.NotFound, Err: errors.New("no such file"),
			Hint: "make it with: kassett serve client add NAME --clients " + name,
		}
	} else if err != nil {
		return nil, fmt.Errorf("read clients: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	return rest.ReadClients(f, terminal.Safe(name))
}

// servedFolders is the folder below which a server's repositories rest.
type servedFolders string

// open opens or makes a repository's folder. None is made inside another's.
func (d servedFolders) open(ctx context.Context, path string, create bool) (kassett.Storage, error) {
	if !filepath.IsLocal(filepath.FromSlash(path)) { // what Windows takes for devices, above all
		return nil, &kassett.Error{Op: "open repository", What: path, Kind: kassett.Invalid, Err: errors.New("not a path of this system")}
	}
	where := filepath.Join(string(d), filepath.FromSlash(path))
	var st *local.Storage
	var err error
	if create {
		for above := filepath.Dir(where); len(above) >= len(string(d)); above = filepath.Dir(above) {
			if _, err := os.Lstat(filepath.Join(above, kassett.ConfigFile.String())); err == nil {
				return nil, &kassett.Error{Op: "create repository", What: path, Kind: kassett.Exists, Err: errors.New("it would be inside of another repository")}
			}
			if above == string(d) {
				break
			}
		}
		st, err = local.Create(where)
	} else {
		st, err = local.Open(where)
	}
	if err != nil {
		return nil, err
	}
	if err := st.MarkServed(ctx); err != nil {
		return nil, err
	}
	return st, nil
}

// judge lets a server judge records by what the engine knows of them.
type judge struct{}

// Vet implements [rest.Records].
func (judge) Vet(ctx context.Context, beside kassett.Beside, name string, file []byte) (lifts bool, err error) {
	kind, err := record.Vet(ctx, beside, name, file)
	return kind == record.Lift || kind == record.Retire, err
}

// MayForget implements [rest.Records].
func (judge) MayForget(ctx context.Context, st kassett.Storage, in kassett.Info, now time.Time) error {
	return record.MayForget(ctx, st, in, now)
}
