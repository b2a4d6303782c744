//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// sample is one measured command.
type sample struct {
	corpus, phase, tool, place string
	run                        int

	wall, user, sys time.Duration
	other           time.Duration // CPU time of everything else on the machine meanwhile
	rss             int64         // bytes, the largest resident set
	repo            int64         // bytes in the repository afterwards
	added           int64         // bytes by which it grew
}

func (s sample) cpu() time.Duration { return s.user + s.sys }

func (s sample) String() string {
	return fmt.Sprintf("cpu %7.2fs  wall %7.2fs  memory %5d MiB  repository %6d MiB  other %.1fs",
		s.cpu().Seconds(), s.wall.Seconds(), s.rss>>20, s.repo>>20, s.other.Seconds())
}

// measure runs a command to its end. Earlier writes are flushed before, so that
// nobody pays for those of another; the page cache stays warm on purpose.
func measure(cmd *exec.Cmd) (s sample, err error) {
	self, err := os.Executable()
	if err != nil {
		return s, err
	}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Args = append([]string{self, launchWord, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = self
	r, w, err := os.Pipe()
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	cmd.ExtraFiles = []*os.File{w}

	syscall.Sync()
	busy := machineBusy()
	runErr := cmd.Run()
	if err := w.Close(); err != nil {
		return s, err
	}
	if runErr != nil {
		return s, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args[2:], " "), runErr, tail(&said))
	}
	if _, err := fmt.Fscan(r, &s.wall, &s.user, &s.sys, &s.rss); err != nil {
		return s, fmt.Errorf("read what was measured: %w", err)
	}
	s.other = max(0, machineBusy()-busy-s.cpu())
	return s, nil
}

// launchWord makes this program start another and measure it.
const launchWord = "launch"

// launch runs a command, and writes what it took to file 3: wall, user and
// system time in nanoseconds, and the largest resident set in bytes. It is a
// process of its own because Linux counts the memory of the process that starts
// another among the memory of the one that is started (exec_mmap keeps the mark
// of what it replaces): a small one must do it.
func launch(args []string) (exit int) {
	runtime.LockOSThread() // or the thread's end would be taken for ours
	cmd := exec.CommandContext(context.Background(), args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	start := time.Now()
	err := cmd.Run()
	wall := time.Since(start)
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		return max(1, failed.ExitCode())
	}
	u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if err == nil && ok {
		_, err = fmt.Fprintln(os.NewFile(3, "result"), int64(wall), int64(cmd.ProcessState.UserTime()), int64(cmd.ProcessState.SystemTime()), u.Maxrss<<10)
	}
	if err != nil || !ok {
		fmt.Fprintln(os.Stderr, "bench: launch:", err)
		return 1
	}
	return 0
}

// machineBusy returns the CPU time of all processes since the machine started;
// proc(5), /proc/stat: in hundredths of a second.
func machineBusy() time.Duration {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	var ticks int64
	for i, f := range strings.Fields(line) {
		if i == 4 || i == 5 || i == 0 || i > 7 { // idle, waiting, the word "cpu", stolen, guests
			continue
		}
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// total is what a folder holds.
type total struct{ files, bytes int64 }

// folderSize adds up the sizes of the files below dir.
func folderSize(dir string) (t total, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		t.files++
		t.bytes += fi.Size()
		return nil
	})
	return t, err
}

// describeMachine says on what the figures were taken.
func describeMachine(work string) string {
	cpu := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, ok := strings.CutPrefix(line, "model name"); ok {
				cpu = strings.TrimSpace(strings.TrimLeft(name, "\t :"))
				break
			}
		}
	}
	var u syscall.Utsname
	var kernel []byte
	if syscall.Uname(&u) == nil {
		for _, c := range u.Release {
			if c == 0 {
				break
			}
			kernel = append(kernel, byte(c))
		}
	}
	memory := int64(0)
	var info syscall.Sysinfo_t
	if syscall.Sysinfo(&info) == nil {
		memory = int64(info.Totalram * uint64(info.Unit) >> 30)
	}
	fsType := "unknown"
	var st syscall.Statfs_t
	if syscall.Statfs(work, &st) == nil {
		fsType = fileSystems[st.Type]
		if fsType == "" {
			fsType = fmt.Sprintf("%#x", st.Type)
		}
	}
	return fmt.Sprintf("%s, %d threads, %d GiB memory, Linux %s, work folder on %s, %s, %s",
		cpu, runtime.NumCPU(), memory, kernel, fsType, runtime.Version(), time.Now().UTC().Format("2006-01-02 15:04 UTC"))
}

// fileSystems names the magic numbers of statfs(2).
var fileSystems = map[int64]string{
	0xef53: "ext4", 0x58465342: "xfs", 0x9123683e: "btrfs", 0x01021994: "tmpfs", 0x794c7630: "overlayfs", 0x2fc12fc1: "zfs",
}
