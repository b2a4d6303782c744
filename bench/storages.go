//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// served is a storage that runs for one measurement, and a plain client of it.
type served struct {
	repo string   // place of the repository
	env  []string // for Kassett
	args []string // likewise
	// put and get are commands of a plain client that move the files of a
	// folder to the storage and back from it into another folder.
	put, get func(dir string) *exec.Cmd
	stop     func() error
}

// setting is what a storage is started with.
type setting struct {
	dir     string   // for what it keeps
	files   []string // names of the files that a plain client moves
	kassett string   // our program
}

// storages start a storage of each kind.
var storages = map[string]func(ctx context.Context, at setting) (*served, error){
	"local": serveLocal,
	"rest":  serveREST,
	"s3":    serveS3,
	"sftp":  serveSFTP,
}

// The phases of a storage.
var storagePhases = []string{"put", "backup", "get", "restore"}

// Content that neither shrinks nor repeats, so that what is compared is the way
// to the storage and not what a backup saves.
const (
	storageFiles = 64
	storageBytes = 16 << 20 // of each
)

// storageTable measures backup and restore on storages, beside a plain client of
// each. All goes through loopback.
func (b *bench) storageTable(ctx context.Context) error {
	names := strings.Split(b.storages, ",")
	for _, name := range names {
		if storages[name] == nil {
			return fmt.Errorf("no storage %q: there are %s", name, strings.Join(slices.Sorted(maps.Keys(storages)), ", "))
		}
	}
	size := max(1, int(storageBytes*b.options.scale))
	src, files, err := storageSource(b.work, size)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(src) }() // the folder around it goes anyway
	all := total{storageFiles, int64(storageFiles * size)}
	var samples []sample
	for n := range b.options.runs {
		turn := n % len(names) // another one begins in each run
		for _, name := range slices.Concat(names[turn:], names[:turn]) {
			got, err := b.storage(ctx, name, src, files, all)
			if err != nil {
				return fmt.Errorf("storage %s: %w", name, err)
			}
			for _, s := range got {
				b.say("run %d  %-7s  %-6s  %s", n+1, s.phase, name, s)
			}
			samples = append(samples, got...)
		}
	}
	return b.showStorages(names, samples, all)
}

// storageSource makes the files.
func storageSource(work string, size int) (dir string, files []string, err error) {
	dir = filepath.Join(work, "storage-source")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", nil, err
	}
	content, buf := rand.NewChaCha8([32]byte{1}), make([]byte, size)
	for i := range storageFiles {
		_, _ = content.Read(buf) // never fails
		name := fmt.Sprintf("file-%02d", i)
		if err := os.WriteFile(filepath.Join(dir, name), buf, 0o600); err != nil {
			return "", nil, err
		}
		files = append(files, name)
	}
	return dir, files, nil
}

// storage does all phases on a new storage.
func (b *bench) storage(ctx context.Context, name, src string, files []string, size total) (samples []sample, err error) {
	dir := filepath.Join(b.work, "storages", name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	st, err := storages[name](ctx, setting{dir, files, b.tools[0].path})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.stop()) }()
	t := *b.tools[0] // Kassett
	t.repo, t.home = st.repo, dir
	kassett := func(args ...string) *exec.Cmd {
		cmd := t.exec(ctx, slices.Concat(args, []string{"-q", "-r", t.repo}, st.args))
		cmd.Env = append(cmd.Env, st.env...)
		return cmd
	}
	if _, err := measure(kassett("init")); err != nil {
		return nil, err
	}
	for _, phase := range storagePhases {
		var cmd *exec.Cmd
		var p *place
		if phase == "get" || phase == "restore" {
			if p, err = freshPlace(ctx, filepath.Join(b.work, "restore"), size); err != nil {
				return nil, err
			}
		}
		switch phase {
		case "put":
			cmd = st.put(src)
		case "get":
			cmd = st.get(p.dir)
		case "backup":
			cmd = kassett("backup", src)
		case "restore":
			cmd = kassett("restore", "latest:"+src, "--target", p.dir)
		}
		s, err := measure(cmd)
		if err == nil && p != nil {
			err = sameFiles(src, p.dir, files)
		}
		if p != nil {
			err = errors.Join(err, p.remove())
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", phase, err)
		}
		s.corpus, s.phase, s.tool = "storages", phase, name
		samples = append(samples, s)
	}
	return samples, nil
}

// sameFiles compares the content of files in two folders.
func sameFiles(a, b string, files []string) error {
	for i, x := range paths(a, files) {
		sent, err := os.ReadFile(x)
		if err != nil {
			return err
		}
		back, err := os.ReadFile(paths(b, files)[i])
		if err != nil {
			return err
		}
		if !bytes.Equal(sent, back) {
			return fmt.Errorf("%s did not come back as it was sent", files[i])
		}
	}
	return nil
}

// showStorages prints rates, and how near ours come to the slower of the plain
// client and of our own on a local folder.
func (b *bench) showStorages(names []string, samples []sample, size total) error {
	rate := func(name, phase string) float64 { // MiB a second, the median
		var all []float64
		for _, s := range samples {
			if s.tool == name && s.phase == phase {
				all = append(all, float64(size.bytes)/(1<<20)/s.wall.Seconds())
			}
		}
		if len(all) == 0 {
			return 0
		}
		slices.Sort(all)
		return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
	}
	share := func(name, ours, plain string) string {
		limit := rate(name, plain)
		if local := rate("local", ours); local > 0 {
			limit = min(limit, local)
		}
		return ratio(rate(name, ours), limit)
	}
	rows := [][]string{{"storage", "plain put", "backup", "backup/limit", "plain get", "restore", "restore/limit"}}
	for _, name := range names {
		rows = append(rows, []string{
			name, short(rate(name, "put")), short(rate(name, "backup")), share(name, "backup", "put"),
			short(rate(name, "get")), short(rate(name, "restore")), share(name, "restore", "get"),
		})
	}
	about := fmt.Sprintf("storages on loopback: %d files, %d MiB, MiB/s, medians of %d runs; limit: the slower of the plain client and of a local folder",
		size.files, size.bytes>>20, b.options.runs)
	return b.show("storages", about, rows)
}

// serveLocal is a folder; its plain client is cp.
func serveLocal(ctx context.Context, at setting) (*served, error) {
	plain := filepath.Join(at.dir, "plain")
	copies := func(from, to string) *exec.Cmd {
		return exec.CommandContext(ctx, "cp", append(paths(from, at.files), to)...)
	}
	return &served{
		repo: filepath.Join(at.dir, "repo"),
		put:  func(from string) *exec.Cmd { return copies(from, plain) },
		get:  func(to string) *exec.Cmd { return copies(plain, to) },
		stop: func() error { return nil },
	}, os.Mkdir(plain, 0o700)
}

// paths puts files into a folder.
func paths(dir string, files []string) []string {
	all := make([]string, len(files))
	for i, f := range files {
		all[i] = filepath.Join(dir, f)
	}
	return all
}

// daemon starts a server that listens on 127.0.0.1, and waits until ready says
// so. stop ends it.
func daemon(ctx context.Context, cmd *exec.Cmd, ready func() bool) (stop func() error, err error) {
	said := new(strings.Builder)
	if cmd.Stderr == nil {
		cmd.Stdout, cmd.Stderr = io.Discard, said
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is killed
	}()
	stop = func() error {
		err := cmd.Process.Kill()
		<-ended
		if errors.Is(err, os.ErrProcessDone) {
			err = fmt.Errorf("%s ended by itself: %s", cmd.Path, said)
		}
		return err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); !ready(); {
		select {
		case <-ended:
			return nil, fmt.Errorf("%s ended: %s", cmd.Path, said)
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), stop())
		case <-tick.C:
			if time.Since(begun) > time.Minute {
				return nil, errors.Join(fmt.Errorf("%s does not listen", cmd.Path), stop())
			}
		}
	}
	return stop, nil
}
