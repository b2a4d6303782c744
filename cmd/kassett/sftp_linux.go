package main

import (
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// separate keeps a program out of reach of the terminal's Ctrl-C, so that the
// way to the server lives until our work is undone. While it asks has to be in
// front of the terminal, if there is one; what it returns takes that back.
func separate(cmd *exec.Cmd, asks bool) (backToFront func()) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if !asks {
		return func() {}
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return func() {}
	}
	front, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	if err != nil || front != unix.Getpgrp() { // we are not in front ourselves
		_ = tty.Close() // nothing was written
		return func() {}
	}
	cmd.SysProcAttr.Foreground = true
	cmd.SysProcAttr.Ctty = int(tty.Fd())
	return sync.OnceFunc(func() {
		signal.Ignore(unix.SIGTTOU) // what a background process gets for this
		defer signal.Reset(unix.SIGTTOU)
		_ = unix.IoctlSetPointerInt(int(tty.Fd()), unix.TIOCSPGRP, unix.Getpgrp()) // else the shell does
		_ = tty.Close()                                                            // nothing was written
	})
}

// widen lets more bytes wait in a pipe, so that two busy programs change places
// less often.
func widen(pipe any) {
	f, ok := pipe.(*os.File)
	if !ok {
		return
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { // a user who has many pipes may not
		_, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, 1<<20)
	})
}
