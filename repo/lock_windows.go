package repo

import (
	"errors"

	"golang.org/x/sys/windows"
)

// processAlive reports whether a process of that number runs. One that may not
// be opened does.
func processAlive(pid int) bool {
	if pid <= 0 {
		return false
	}
	h, err := windows.OpenProcess(windows.SYNCHRONIZE, false, uint32(pid))
	if err != nil {
		return errors.Is(err, windows.ERROR_ACCESS_DENIED)
	}
	defer func() { _ = windows.CloseHandle(h) }()
	// A process that has ended is signalled, even while handles to it are open.
	event, err := windows.WaitForSingleObject(h, 0)
	return err != nil || event == uint32(windows.WAIT_TIMEOUT)
}

// shield does nothing: no signal asks on Windows whether a process lives.
func shield() (stop func()) { return func() {} }
