package files

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// futimens sets the access and modification time of an open file. The package
// unix cannot pass the null path that kernels before 5.8 need for this.
func futimens(fd int, ts *[2]unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(ts)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
