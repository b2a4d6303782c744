//go:build unix

package repo

import (
	"errors"
	"os"
	"os/signal"
	"sync"
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
	hangups.Lock()
	defer hangups.Unlock()
	if hangups.shields++; hangups.shields == 1 {
		signal.Notify(hangups.dropped, syscall.SIGHUP)
	}
	return sync.OnceFunc(func() {
		hangups.Lock()
		defer hangups.Unlock()
		if hangups.shields--; hangups.shields == 0 {
			signal.Stop(hangups.dropped)
		}
	})
}

// hangups is for the whole process, as signals are.
var hangups = struct {
	sync.Mutex
	shields int            // that stand
	dropped chan os.Signal // never read: what is sent to it is dropped
}{dropped: make(chan os.Signal)}
