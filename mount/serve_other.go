//go:build !linux

package mount

import (
	"errors"

	"kassett"
)

// Mounted is a view that a folder of this machine shows. This system has none.
type Mounted struct{}

var errNoFUSE = &kassett.Error{
	Op: "mount", Kind: kassett.Invalid, Err: errors.New("there is no FUSE on this system"),
	Hint: "serve the same view over WebDAV: kassett mount --webdav 127.0.0.1:8080",
}

// CheckMountpoint says that this system cannot mount.
func CheckMountpoint(string) error { return errNoFUSE }

// Mount says that this system cannot mount.
func (v *View) Mount(string, FUSEOptions) (*Mounted, error) { return nil, errNoFUSE }

// Done is closed when the view is mounted no longer.
func (m *Mounted) Done() <-chan struct{} { return nil }

// Unmount does nothing.
func (m *Mounted) Unmount() error { return nil }
