//go:build linux

package main

import (
	"bytes"
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
func measure(cmd *exec.Cmd) (sample, error) {
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	syscall.Sync()
	busy, start := machineBusy(), time.Now()
	err := cmd.Run()
	s := sample{wall: time.Since(start)}
	if err != nil {
		return s, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, tail(&said))
	}
	s.user, s.sys = cmd.ProcessState.UserTime(), cmd.ProcessState.SystemTime()
	s.other = max(0, machineBusy()-busy-s.cpu())
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		s.rss = u.Maxrss << 10
	}
	return s, nil
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
