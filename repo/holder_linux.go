package repo

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kassett"
)

// outermostPID is the process namespace that is in no container
// (PROC_PID_INIT_INO of the kernel's proc_ns.h).
const outermostPID = "pid:[4026531836] "

// thisHolder describes this process, or returns nil when the system does not
// tell all of it.
func thisHolder() *lockHolder {
	// A /proc of another namespace would tell about others.
	if self, err := os.Readlink("/proc/self"); err != nil || self != strconv.Itoa(os.Getpid()) {
		return nil
	}
	boot, err1 := os.ReadFile("/proc/sys/kernel/random/boot_id")
	pids, err2 := os.Readlink("/proc/self/ns/pid")
	_, started, err3 := processStat(os.Getpid())
	if errors.Join(err1, err2, err3) != nil {
		return nil
	}
	// Start times count in the time namespace; kernels before 5.6 have none.
	times, err := os.Readlink("/proc/self/ns/time")
	if err != nil {
		times = "time:[]"
	}
	h := &lockHolder{Boot: string(bytes.TrimSpace(boot)), Namespace: pids + " " + times, Started: started}
	// machine-id(5): the ID itself is to be kept confidential.
	if id, err := os.ReadFile("/etc/machine-id"); err == nil && len(bytes.TrimSpace(id)) > 0 {
		h.Machine = kassett.Hash(append([]byte("kassett lock "), bytes.TrimSpace(id)...)).String()[:32]
	}
	return h
}

// outermost reports whether the holder was in no container.
func (h *lockHolder) outermost() bool { return strings.HasPrefix(h.Namespace, outermostPID) }

// look asks after a process of this kernel and namespace.
func (h *lockHolder) look(pid int) holderState {
	if pid <= 0 {
		return unsure
	}
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return dead
	}
	state, started, err := processStat(pid)
	switch {
	case err != nil: // hidden from us, or gone this moment
		return unsure
	case started != h.Started: // the number was given to another one
		return dead
	case state == 'Z' || state == 'X': // ended; its parent does not care
		return dead
	}
	return living
}

// processStat reads the state of a process and when it started, in clock ticks
// since the kernel did: fields 3 and 22 of proc_pid_stat(5).
func processStat(pid int) (state byte, started uint64, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	// The name before, in parentheses, may hold anything.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 || fields[0] == "" {
		return 0, 0, fmt.Errorf("read /proc/%d/stat: cut off", pid)
	}
	started, err = strconv.ParseUint(fields[19], 10, 64)
	return fields[0][0], started, err
}

// bootTime returns when the kernel was started, by the present clock, or the
// zero time.
func bootTime() time.Time {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Time{}
	}
	return time.Now().Round(0).Add(-time.Duration(up.Nano()))
}
