//go:build linux

// Command bench compares Kassett with restic and Borg: side by side, on the
// same generated data, in one run. docs/performance.md says how to read what
// it prints and how to repeat it. More tables compare storages and ways to copy a
// repository: see storages.go and copies.go.
//
// For each corpus and each run it makes fresh repositories and then, phase by
// phase, lets every tool do the same work: first backup, backup of nothing new,
// backup after one percent changed, restore, and a check that reads all data.
// The tools take turns within a phase, so that a disturbance of the machine
// meets all of them. It measures CPU seconds, wall time, the largest resident
// memory and stored bytes, compares what was restored with the source, and
// prints medians and ratios. It fails when a tool fails or restores something
// else than it was given, and never because of a time.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// options are the flags.
type options struct {
	only     string
	storages string
	corpora  string
	peers    string
	extra    extraPeers
	runs     int
	scale    float64
	dir, out string
	kassett  string
	profile  bool
}

// extraPeers are restics of other versions, NAME=PATH.
type extraPeers []string

func (e *extraPeers) String() string { return strings.Join(*e, " ") }

func (e *extraPeers) Set(s string) error {
	name, path, ok := strings.Cut(s, "=")
	if !ok || name == "" || path == "" {
		return errors.New("want NAME=PATH")
	}
	*e = append(*e, s)
	return nil
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == launchWord {
		os.Exit(launch(os.Args[2:]))
	}
	var o options
	flag.StringVar(&o.only, "only", "peers,storages,copies", "`names` of the tables to make")
	flag.StringVar(&o.storages, "storages", "local,rest,s3,sftp", "`names` of the storages to measure")
	flag.StringVar(&o.corpora, "corpora", "docs,pacs,db", "`names` of the data to work on")
	flag.StringVar(&o.peers, "peers", "restic,borg", "`names` of the tools to compare with, found in PATH")
	flag.Var(&o.extra, "peer", "one more restic, as `NAME=PATH`; may be given again")
	flag.IntVar(&o.runs, "runs", 3, "how often everything is done; the table shows medians")
	flag.Float64Var(&o.scale, "scale", 1, "size of the data; 0.001 is enough to see that all works")
	flag.StringVar(&o.dir, "dir", "", "`folder` to work in (default: a new one in the system's folder for temporary files)")
	flag.StringVar(&o.out, "out", filepath.Join("bench", "out"), "`folder` for the CSV and Markdown files")
	flag.StringVar(&o.kassett, "kassett", "", "`path` of the binary (default: it is built)")
	flag.BoolVar(&o.profile, "profile", false, "write a CPU profile of each Kassett command into the -out folder, and no CPU figures to trust")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one call of the command.
type bench struct {
	options
	*report
	work string // everything that is made is in this folder, and goes with it
}

// run prepares the tools and works through all corpora.
func run(ctx context.Context, o options) (err error) {
	if flag.NArg() > 0 || o.runs < 1 || o.scale <= 0 {
		return errors.New("want flags only, runs from 1, and a scale above 0: see -help")
	}
	work, err := os.MkdirTemp(o.dir, "kassett-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	tools, err := findTools(ctx, o, work)
	if err != nil {
		return err
	}
	b := &bench{o, &report{tools: tools, machine: describeMachine(work), scale: o.scale, runs: o.runs}, work}
	b.say("%s", b.machine)
	for _, t := range tools {
		b.say("%-12s %s", t.name, t.version)
	}
	for name := range strings.SplitSeq(o.only, ",") {
		switch name {
		case "peers":
			err = b.peers(ctx)
		case "storages":
			err = b.storageTable(ctx)
		case "copies":
			err = b.copyTable(ctx)
		default:
			err = fmt.Errorf("no table %q: there are peers, storages and copies", name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// peers works through all corpora with all tools.
func (b *bench) peers(ctx context.Context) error {
	for name := range strings.SplitSeq(b.options.corpora, ",") {
		kind, ok := corpora[name]
		if !ok {
			return fmt.Errorf("no corpus %q: there are docs, pacs and db", name)
		}
		if err := b.corpus(ctx, corpusAt(filepath.Join(b.work, "source"), name, kind, b.options.scale)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return b.write(b.out)
}

// corpus does all runs of one corpus.
func (b *bench) corpus(ctx context.Context, c *corpus) (err error) {
	b.say("%s: generating %s", c.name, c.kind.about)
	if err := c.generate(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(c.dir)) }()
	size, err := c.measure()
	if err != nil {
		return err
	}
	b.begin(c.name, size)
	for n := 1; n <= b.options.runs; n++ {
		if err := b.once(ctx, c, n); err != nil {
			return err
		}
	}
	b.table(os.Stdout, c.name)
	return nil
}

// once does all phases, for the n-th time.
func (b *bench) once(ctx context.Context, c *corpus, n int) (err error) {
	turn := (n - 1) % len(b.tools) // another one begins in each run
	tools := slices.Concat(b.tools[turn:], b.tools[:turn])
	for _, t := range tools {
		if err := t.fresh(ctx, filepath.Join(b.work, "tools", t.name)); err != nil {
			return fmt.Errorf("%s: init: %w", t.name, err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(t.home)) }()
	}
	for _, phase := range phases {
		if phase == changed {
			if err := c.change(uint64(n)); err != nil {
				return err
			}
		}
		for _, t := range tools {
			s, err := b.phase(ctx, t, phase, c)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", t.name, phase, err)
			}
			s.corpus, s.phase, s.run, s.tool = c.name, phase, n, t.name
			b.add(s)
			b.say("run %d  %-9s  %-12s  %s", n, phase, t.name, s)
		}
	}
	return nil
}

// phase lets one tool do one phase, and looks at what came of it.
func (b *bench) phase(ctx context.Context, t *tool, phase string, c *corpus) (s sample, err error) {
	before, err := folderSize(t.repo)
	if err != nil {
		return s, err
	}
	cmd := t.command(ctx, phase, c)
	if err := b.profileTo(cmd, t, c.name+"-"+phase); err != nil {
		return s, err
	}
	var p *place
	if phase == restore {
		size, err := c.measure()
		if err != nil {
			return s, err
		}
		if p, err = freshPlace(ctx, filepath.Join(b.work, "restore"), size); err != nil {
			return s, err
		}
		defer func() { err = errors.Join(err, p.remove()) }()
		t.into(cmd, p.dir)
	}
	if s, err = measure(cmd); err != nil {
		return s, err
	}
	after, err := folderSize(t.repo)
	if err != nil {
		return s, err
	}
	s.repo, s.added = after.bytes, after.bytes-before.bytes
	if phase == restore {
		s.place = p.kind
		if err := compareTrees(c.dir, filepath.Join(p.dir, c.dir)); err != nil {
			return s, fmt.Errorf("what was restored is not what was saved: %w", err)
		}
	}
	return s, nil
}

// profileTo makes one of our own commands write a profile, when asked for.
func (b *bench) profileTo(cmd *exec.Cmd, t *tool, name string) error {
	if !b.profile || !t.ours {
		return nil
	}
	path, err := filepath.Abs(filepath.Join(b.out, name+".pprof"))
	cmd.Env = append(cmd.Env, "KASSETT_CPUPROFILE="+path)
	return err
}
