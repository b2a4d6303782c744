//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// copyWay is one way to a second place.
type copyWay struct {
	name string
	// prepare makes the target, do is measured.
	prepare, do *exec.Cmd
}

// copyTable compares ways to copy a repository of files that neither shrink nor
// repeat, from a folder to another one: packs as they are, sealed anew, restic's
// copy, and cp, which neither checks nor flushes.
func (b *bench) copyTable(ctx context.Context) error {
	size := max(1, int(storageBytes*b.options.scale))
	src, _, err := storageSource(b.work, size)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(src) }() // the folder around it goes anyway
	ours := *b.tools[0]
	if err := ours.fresh(ctx, filepath.Join(b.work, "copies")); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(ours.home) }()
	if _, err := measure(ours.exec(ctx, []string{"backup", "-q", "-r", ours.repo, src})); err != nil {
		return err
	}
	var samples []sample
	var names []string
	for n := range b.options.runs {
		ways := b.copyWays(ctx, &ours)
		turn := n % len(ways) // another one begins in each run
		names = names[:0]
		for _, w := range ways {
			names = append(names, w.name)
		}
		for _, w := range slices.Concat(ways[turn:], ways[:turn]) {
			s, err := copyOnce(w, filepath.Join(ours.home, "target"))
			if err != nil {
				return fmt.Errorf("copies: %s: %w", w.name, err)
			}
			s.phase, s.tool = "copy", w.name
			b.say("run %d  copy  %-22s  %s", n+1, w.name, s)
			samples = append(samples, s)
		}
	}
	return b.showCopies(names, samples, storageFiles*size)
}

// copyOnce measures one way, and removes what it made.
func copyOnce(w copyWay, target string) (s sample, err error) {
	defer func() { err = errors.Join(err, os.RemoveAll(target)) }()
	if w.prepare != nil {
		if _, err := measure(w.prepare); err != nil {
			return s, err
		}
	}
	return measure(w.do)
}

// copyWays returns the ways that there are with the tools at hand.
func (b *bench) copyWays(ctx context.Context, t *tool) []copyWay {
	target := filepath.Join(t.home, "target")
	command := func(path string, args ...string) *exec.Cmd {
		of := *t
		of.path = path
		cmd := of.exec(ctx, args)
		cmd.Env = append(cmd.Env, "KASSETT_FROM_PASSWORD=bench", "KASSETT_TO_PASSWORD=bench", "RESTIC_FROM_PASSWORD=bench")
		return cmd
	}
	kassett := func(args ...string) *exec.Cmd { return command(t.path, append(args, "-q")...) }
	replica := kassett("init", "-r", target, "--replica-of", t.repo)
	own := kassett("init", "-r", target, "--copy-chunker-params", "--from-repo", t.repo)
	ways := []copyWay{
		{"cp", nil, command("/bin/cp", "-r", t.repo, target)},
		{"kassett whole", replica, kassett("copy", "-r", t.repo, "--to", target)},
		{"kassett whole, unread", kassett(replica.Args[1 : len(replica.Args)-1]...), kassett("copy", "-r", t.repo, "--to", target, "--verify=false")},
		{"kassett sealed anew", own, kassett("copy", "-r", t.repo, "--to", target)},
	}
	for _, peer := range b.tools[1:] {
		if peer.name != "borg" {
			ways = append(ways, copyWay{
				peer.name,
				command(peer.path, "init", "-q", "-r", target, "--copy-chunker-params", "--from-repo", t.repo),
				command(peer.path, "copy", "-q", "-r", target, "--from-repo", t.repo),
			})
		}
	}
	return ways
}

// showCopies prints medians, and each way beside ours with whole packs.
func (b *bench) showCopies(names []string, samples []sample, bytes int) error {
	median := func(name string, of func(sample) time.Duration) float64 {
		var all []float64
		for _, s := range samples {
			if s.tool == name {
				all = append(all, of(s).Seconds())
			}
		}
		slices.Sort(all)
		return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
	}
	wall := func(s sample) time.Duration { return s.wall }
	rows := [][]string{{"way", "wall s", "cpu s", "wall/ours", "cpu/ours"}}
	for _, name := range names {
		w, c := median(name, wall), median(name, sample.cpu)
		rows = append(rows, []string{
			name, fmt.Sprintf("%.2f", w), fmt.Sprintf("%.2f", c),
			ratio(w, median("kassett whole", wall)), ratio(c, median("kassett whole", sample.cpu)),
		})
	}
	about := fmt.Sprintf("copies of a repository from folder to folder: %d MiB, medians of %d runs; only Kassett reads back what it wrote, cp does not flush",
		bytes>>20, b.options.runs)
	return b.show("copies", about, rows)
}

// show prints a table, the first row of which is its head, and writes it to a
// file of that name.
func (b *bench) show(name, about string, rows [][]string) error {
	fmt.Fprintf(os.Stdout, "\n%s\n", about)
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range rows {
		fmt.Fprintln(t, strings.Join(row, "\t")+"\t")
	}
	if err := t.Flush(); err != nil {
		return err
	}
	md := fmt.Appendf(nil, "# %s%s\n\n%s. %s.\n\n", strings.ToUpper(name[:1]), name[1:], b.machine, about)
	for i, row := range rows {
		md = fmt.Appendf(md, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			md = append(md, "| --- |"+strings.Repeat(" ---: |", len(row)-1)+"\n"...)
		}
	}
	return os.WriteFile(filepath.Join(b.out, name+".md"), md, 0o644)
}
