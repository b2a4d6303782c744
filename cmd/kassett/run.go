package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"kassett"
	"kassett/cmd/kassett/terminal"
)

// version is set by the linker: -X main.version=1.2.3.
var version = "0.1.0-dev"

// app is one run of the program: the world it may touch, the flags that every
// command has, and its two voices.
type app struct {
	env
	flags globals
	// straight says that the command looks at the storage itself, past any
	// copy on this machine: check, and whatever repairs.
	straight bool
	out      *results        // its first error stops the command
	ui       *terminal.Voice // talk
}

// newVoice returns the voice for talk on stderr.
func newVoice(e env) *terminal.Voice {
	return terminal.NewVoice(e.stderr, e.stderrTerminal, e.width)
}

// globals are the flags that every command has.
type globals struct {
	where       place // the repository and how it opens
	json, quiet bool
	verbose     int
	noLock      bool
	retryLock   time.Duration
	cacheDir    string
	noCache     bool
	compression string
	packSize    uint              // MiB
	options     map[string]string // of storages: -o s3.region=eu-north-1
	tls         tlsFlags
	line        lineFlags
}

// run runs the program and returns its exit code. When ctx ends, work stops
// where it is safe and the code is 130.
func run(ctx context.Context, e env) int {
	a := &app{env: e, out: newResults(e.stdout), ui: newVoice(e)}
	defer a.profile()()
	root := a.root()
	root.SetArgs(e.args)
	root.SetIn(e.stdin)
	root.SetOut(a.out)
	root.SetErr(e.stderr)
	err := root.ExecuteContext(ctx)
	if flushed := a.out.Flush(); err == nil {
		err = flushed
	}
	return a.report(ctx, err)
}

// Groups of commands, in the order the help shows them.
const (
	groupDaily  = "daily"
	groupLook   = "look"
	groupKeep   = "keep"
	groupRepair = "repair"
	groupOther  = "other"
)

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "kassett",
		Short: "Back up, prove what was kept, and give it back",
		Long: `Kassett backs data up into a repository in restic's format, version 2, proves
what it kept and gives it back. Any stock restic can read what it wrote.

A repository and its password are named by flags or by the environment:
KASSETT_REPOSITORY, KASSETT_PASSWORD_FILE, KASSETT_PASSWORD_COMMAND.`,
		Args:          cobra.ArbitraryArgs, // so that an unknown command comes to RunE
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			hint := "kassett help lists the commands"
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				hint = "did you mean: kassett " + strings.Join(near, ", kassett ") + "?"
			}
			return &kassett.Error{
				Op: "run command", What: terminal.Safe(args[0]), Kind: kassett.Invalid,
				Hint: hint, Err: errors.New("there is no such command"),
			}
		},
	}
	root.SuggestionsMinimumDistance = 2
	root.PersistentPreRun = func(cmd *cobra.Command, _ []string) {
		for ; cmd.HasParent(); cmd = cmd.Parent() {
			a.straight = a.straight || cmd.Name() == "check" || cmd.GroupID == groupRepair
		}
	}
	root.AddGroup(
		&cobra.Group{ID: groupDaily, Title: "Every day:"},
		&cobra.Group{ID: groupLook, Title: "Look:"},
		&cobra.Group{ID: groupKeep, Title: "Keep and let go:"},
		&cobra.Group{ID: groupRepair, Title: "Keys, locks and repair:"},
		&cobra.Group{ID: groupOther, Title: "Other:"},
	)
	root.SetHelpCommandGroupID(groupOther)
	root.SetCompletionCommandGroupID(groupOther)
	a.globalFlags(root.PersistentFlags())
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &kassett.Error{
			Op: "read flags of", What: cmd.CommandPath(), Kind: kassett.Invalid, Err: err,
			Hint: cmd.CommandPath() + " --help lists the flags",
		}
	})
	for group, commands := range a.commands() {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	return root
}

// commands makes every command, by the group the help shows it in.
func (a *app) commands() map[string][]*cobra.Command {
	return map[string][]*cobra.Command{
		groupDaily: {a.initCommand(), a.backupCommand(), a.snapshotsCommand(), a.restoreCommand(), a.checkCommand()},
		groupLook: {
			a.lsCommand(), a.findCommand(), a.searchCommand(), a.historyCommand(), a.diffCommand(), a.mountCommand(), a.dumpCommand(), a.statsCommand(), a.listCommand(), a.catCommand(),
		},
		groupKeep: {
			a.forgetCommand(), a.pruneCommand(), a.copyCommand(), a.tagCommand(), a.rewriteCommand(), a.holdCommand(), a.floorCommand(),
		},
		groupRepair: {a.keyCommand(), a.unlockCommand(), a.repairCommand(), a.parityCommand(), a.recoverCommand(), a.migrateCommand()},
		groupOther:  {a.serveCommand(), a.demoCommand(), a.versionCommand(), a.manCommand()},
	}
}

func (a *app) globalFlags(f *pflag.FlagSet) {
	g := &a.flags
	f.StringVarP(&g.where.repo, "repo", "r", "", "the `repository` (default: $KASSETT_REPOSITORY)")
	f.StringVar(&g.where.repoFile, "repository-file", "", "read the repository's place from `file` (default: $KASSETT_REPOSITORY_FILE)")
	f.StringVarP(&g.where.passwordFile, "password-file", "p", "", "read the password from `file` (default: $KASSETT_PASSWORD_FILE)")
	f.StringVar(&g.where.passwordCommand, "password-command", "", "run `command` and read the password from its output (default: $KASSETT_PASSWORD_COMMAND)")
	f.StringVar(&g.where.keyHint, "key-hint", "", "try the key with this `ID` first (default: $KASSETT_KEY_HINT)")
	f.BoolVar(&g.json, "json", false, "print results as JSON, for programs")
	f.BoolVarP(&g.quiet, "quiet", "q", false, "show no progress and no summary")
	f.CountVarP(&g.verbose, "verbose", "v", "say more (twice: still more)``")
	f.BoolVar(&g.noLock, "no-lock", false, "take no lock; only for commands that read and for dry runs")
	f.DurationVar(&g.retryLock, "retry-lock", 0, "wait for a locked repository up to this `duration`, such as 5m")
	f.StringVar(&g.cacheDir, "cache-dir", "", "keep the cache in `directory` (default: $KASSETT_CACHE_DIR or the system's cache folder)")
	f.BoolVar(&g.noCache, "no-cache", false, "keep no cache")
	f.StringVar(&g.compression, "compression", "", "compression `mode`: auto, off, fastest, better or max (default: $KASSETT_COMPRESSION or auto)")
	f.UintVar(&g.packSize, "pack-size", 0, "size of packs in `MiB`, 4 to 128 (default: $KASSETT_PACK_SIZE or 16)")
	f.StringToStringVarP(&g.options, "option", "o", nil, "set an option of a storage, as `name=value` (repeatable); the handbook's page on storages has them")
	g.tls.register(f)
	g.line.register(f)
}

// args returns a check of the number of a command's arguments: at least low,
// at most high unless that is negative. What they are is said in words.
func args(low, high int, words string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if len(given) >= low && (high < 0 || len(given) <= high) {
			return nil
		}
		return &kassett.Error{
			Op: "read arguments of", What: cmd.CommandPath(), Kind: kassett.Invalid,
			Err: fmt.Errorf("wants %s, has %d", words, len(given)), Hint: cmd.CommandPath() + " --help shows how it is used",
		}
	}
}

// noArgs is for commands that take none.
var noArgs = args(0, 0, "no arguments")

// invalid is the error of a request that makes no sense.
func invalid(op, what, hint string, err error) error {
	return &kassett.Error{Op: op, What: what, Kind: kassett.Invalid, Hint: hint, Err: err}
}

// json prints v as one line of JSON.
func (a *app) json(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// print writes a result for people.
func (a *app) print(format string, args ...any) error {
	_, err := fmt.Fprintf(a.out, format, args...)
	return err
}

// summary writes what a person wants to know at the end, unless it was not
// asked for.
func (a *app) summary(format string, args ...any) error {
	if a.flags.quiet || a.flags.json {
		return nil
	}
	return a.print(format, args...)
}

// results is stdout, buffered, for many goroutines.
type results struct {
	mu sync.Mutex
	w  *bufio.Writer
}

func newResults(w io.Writer) *results {
	return &results{w: bufio.NewWriterSize(output{w}, 64<<10)}
}

// errNoReader is in the error of a write to stdout whose reader has gone. A
// broken pipe to a server or to another program is something else.
var errNoReader = errors.New("nobody reads the output any more")

// output is stdout.
type output struct{ io.Writer }

// Write implements [io.Writer].
func (o output) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		err = fmt.Errorf("%w: %w", errNoReader, err)
	}
	return n, err
}

// Write implements io.Writer.
func (r *results) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.w.Write(p)
}

// Flush writes out what is buffered.
func (r *results) Flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.w.Flush()
}
