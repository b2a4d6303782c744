//go:build unix

package repo

import (
	"errors"
	"os"
	"os/signal"
	"syscall"
)

// processAlive reports whether a process of that number runs. Signal 0 is
// delivered to nobody; one that may not be sent has someone to go to.
func processAlive(pid int) bool {
	if pid <= 0 {
		return false // would name a group of processes
	}
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// shield keeps SIGHUP from ending this process until the returned function is
// called: a stock restic sends it to the maker of a lock to see whether it
// lives. As with restic, closing the terminal does not end the work either.
func shield() (stop func()) {
	c := make(chan os.Signal, 1) // never read; what does not fit is dropped
	signal.Notify(c, syscall.SIGHUP)
	return func() { signal.Stop(c) }
}
