package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"kassett/cmd/kassett/terminal"
	"kassett/snapshot"
	"kassett/source/files"
)

// patternFlags are the flags of one kind of pattern: "exclude" or "include".
type patternFlags struct {
	word                         string
	plain, fold                  []string
	plainFromFile, foldFromFiles []string
}

func (p *patternFlags) register(f *pflag.FlagSet, short string) {
	w := p.word
	f.StringArrayVarP(&p.plain, w, short, nil, w+" what the `pattern` matches (may be given again)")
	f.StringArrayVar(&p.fold, "i"+w, nil, "as --"+w+", but upper and lower case are the same `pattern`")
	f.StringArrayVar(&p.plainFromFile, w+"-file", nil, "read patterns for --"+w+" from `file`")
	f.StringArrayVar(&p.foldFromFiles, "i"+w+"-file", nil, "read patterns for --i"+w+" from `file`")
}

// read returns all patterns, those in files included.
func (p *patternFlags) read(a *app) (plain, fold []string, err error) {
	plain, fold = p.plain, p.fold
	for _, name := range p.plainFromFile {
		more, err := a.readPatterns(name)
		if err != nil {
			return nil, nil, err
		}
		plain = append(plain, more...)
	}
	for _, name := range p.foldFromFiles {
		more, err := a.readPatterns(name)
		if err != nil {
			return nil, nil, err
		}
		fold = append(fold, more...)
	}
	return plain, fold, nil
}

// matchers returns the patterns made ready, nil when there are none.
func (p *patternFlags) matchers(a *app) ([]*files.Patterns, error) {
	plain, fold, err := p.read(a)
	if err != nil {
		return nil, err
	}
	var all []*files.Patterns
	for i, list := range [][]string{plain, fold} {
		if len(list) == 0 {
			continue
		}
		m, err := files.NewPatterns(list, i == 1)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// selection returns the Select that flags ask for: what some include matches,
// or what no exclude matches. It is nil when nothing was asked for.
func (a *app) selection(include, exclude *patternFlags) (snapshot.Select, error) {
	in, err := include.matchers(a)
	if err != nil {
		return nil, err
	}
	out, err := exclude.matchers(a)
	if err != nil {
		return nil, err
	}
	switch {
	case in != nil && out != nil:
		return nil, invalid("read patterns", "", "give only includes or only excludes", errors.New("both are named"))
	case in != nil:
		return func(path string, _ *snapshot.Node) (selected, below bool) {
			p := files.NewPath(path)
			for _, m := range in {
				matched, may := m.MatchChild(p)
				selected, below = selected || matched, below || may
			}
			return selected, selected || below
		}, nil
	case out != nil:
		return func(path string, _ *snapshot.Node) (selected, below bool) {
			p := files.NewPath(path)
			for _, m := range out {
				if m.Match(p) {
					return false, false
				}
			}
			return true, true
		}, nil
	}
	return nil, nil
}

// readPatterns reads a file of patterns: one on each line, lines that begin
// with # are comments, $NAME and ${NAME} are taken from the environment and $$
// is a dollar sign.
func (a *app) readPatterns(name string) ([]string, error) {
	text, err := a.readText(name)
	if err != nil {
		return nil, fmt.Errorf("read patterns: %w", err)
	}
	var list []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		list = append(list, os.Expand(line, func(name string) string {
			if name == "$" {
				return "$"
			}
			return a.getenv(name)
		}))
	}
	return list, nil
}

// maxList bounds a file of names or patterns, in bytes: some millions of them.
const maxList = 1 << 30

// readText reads a file, or standard input when it is called "-". What a
// Windows editor puts in front is taken off.
func (a *app) readText(name string) (string, error) {
	from := a.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer func() { _ = f.Close() }() // it was only read
		from = f
	}
	text, err := io.ReadAll(io.LimitReader(from, maxList+1))
	if err != nil {
		return "", err
	}
	if len(text) > maxList {
		return "", invalid("read", terminal.Safe(name), "name the folders, not every file", errors.New("the list is too long"))
	}
	return string(fromBOM(text)), nil
}

// targetFlags are the lists of files to back up.
type targetFlags struct{ from, verbatim, raw []string }

func (t *targetFlags) register(f *pflag.FlagSet) {
	f.StringArrayVar(&t.from, "files-from", nil, "back up also what the patterns in `file` match, one on each line; - is stdin")
	f.StringArrayVar(&t.verbatim, "files-from-verbatim", nil, "back up also the names in `file`, one on each line, as they are")
	f.StringArrayVar(&t.raw, "files-from-raw", nil, "back up also the names in `file`, each ended by a zero byte")
}

// read returns the targets of all lists.
func (t *targetFlags) read(a *app) (targets []string, err error) {
	for _, name := range t.from {
		more, err := a.globTargets(name)
		if err != nil {
			return nil, err
		}
		targets = append(targets, more...)
	}
	for _, name := range t.verbatim {
		text, err := a.readText(name)
		if err != nil {
			return nil, fmt.Errorf("read list of files: %w", err)
		}
		for line := range strings.Lines(text) {
			if line = strings.TrimRight(line, "\r\n"); line != "" {
				targets = append(targets, line)
			}
		}
	}
	for _, name := range t.raw {
		text, err := a.readText(name)
		if err != nil {
			return nil, fmt.Errorf("read list of files: %w", err)
		}
		more, err := splitRaw(text)
		if err != nil {
			return nil, invalid("read list of files", terminal.Safe(name), "write every name with a zero byte behind it, as find -print0 does", err)
		}
		targets = append(targets, more...)
	}
	return targets, nil
}

func splitRaw(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	text, ok := strings.CutSuffix(text, "\x00")
	if !ok {
		return nil, errors.New("the last name has no zero byte behind it")
	}
	names := strings.Split(text, "\x00")
	if slices.Contains(names, "") {
		return nil, errors.New("there is an empty name")
	}
	return names, nil
}

func (a *app) globTargets(name string) (targets []string, err error) {
	text, err := a.readText(name)
	if err != nil {
		return nil, fmt.Errorf("read list of files: %w", err)
	}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		found, err := filepath.Glob(line)
		if err != nil {
			return nil, invalid("read list of files", strconv.Quote(line), "close every [ with ]", err)
		}
		if len(found) == 0 {
			a.warn(line, errors.New("it matches no file"))
		}
		targets = append(targets, found...)
	}
	return targets, nil
}

// filterFlags choose snapshots.
type filterFlags struct{ hosts, tags, paths []string }

// register adds the flags; short is the letter of --host, "" for none.
func (f *filterFlags) register(set *pflag.FlagSet, short string) {
	set.StringArrayVarP(&f.hosts, "host", short, nil, "only snapshots of this `host` (may be given again)")
	set.StringArrayVar(&f.tags, "tag", nil, "only snapshots with all of these tags, `tag,tag` (may be given again)")
	set.StringArrayVar(&f.paths, "path", nil, "only snapshots of this `path` (may be given again)")
}

func (f *filterFlags) filter() snapshot.Filter {
	var v snapshot.Filter
	v.Hosts = f.hosts
	for _, t := range f.tags {
		v.Tags = append(v.Tags, snapshot.ParseTagList(t))
	}
	for _, p := range f.paths {
		// A path of another system stays as it is.
		if !strings.HasPrefix(p, "/") && !strings.Contains(p, `:\`) {
			if abs, err := filepath.Abs(p); err == nil {
				p = abs
			}
		}
		v.Paths = append(v.Paths, p)
	}
	return v
}

// splitTags splits the values of a tag flag, each "tag,tag".
func splitTags(values []string) (tags []string) {
	for _, v := range values {
		for _, t := range snapshot.ParseTagList(v) {
			if t != "" {
				tags = append(tags, t)
			}
		}
	}
	return tags
}

// parseTime reads a time as people write it, in the zone of this machine
// unless it names another.
func parseTime(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, invalid("read time", strconv.Quote(s), `write it as "2026-01-31 22:00:00", 2026-01-31 or 2026-01-31T22:00:00+01:00`, nil)
}

// timeFlag is a flag of a time; zero when it was not given.
type timeFlag struct{ time.Time }

func (t *timeFlag) String() string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339)
}

// Set implements [pflag.Value].
func (t *timeFlag) Set(s string) (err error) {
	t.Time, err = parseTime(s)
	return err
}

// Type implements [pflag.Value].
func (t *timeFlag) Type() string { return "time" }
