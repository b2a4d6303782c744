package mount

// FUSEOptions say how a view is mounted.
type FUSEOptions struct {
	// AllowOther lets all users of the machine in, not only the one who mounts.
	AllowOther bool
	// NoPermissions lets those users read everything; without it the kernel
	// judges by the owners and modes that the snapshots have.
	NoPermissions bool
	// OwnerRoot shows everything as root's.
	OwnerRoot bool
	// UID and GID own the folders above the snapshots.
	UID, GID uint32
}
