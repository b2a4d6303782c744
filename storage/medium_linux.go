package storage

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// networkFS are the magic numbers of statfs(2) of file systems on other
// machines. Those of FUSE are most often that.
var networkFS = map[uint32]bool{
	unix.NFS_SUPER_MAGIC: true, unix.SMB_SUPER_MAGIC: true, unix.SMB2_SUPER_MAGIC: true, unix.CIFS_SUPER_MAGIC: true,
	unix.V9FS_MAGIC: true, unix.CEPH_SUPER_MAGIC: true, unix.AFS_SUPER_MAGIC: true, unix.AFS_FS_MAGIC: true,
	unix.CODA_SUPER_MAGIC: true, unix.FUSE_SUPER_MAGIC: true,
}

// MediumOf returns what a folder rests on, as the kernel tells it.
func MediumOf(folder string) Medium {
	return mediumOf(folder, "/sys", 0)
}

// maxLayers bounds how many devices upon devices are looked through.
const maxLayers = 8

func mediumOf(folder, sys string, depth int) Medium {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if depth > maxLayers || unix.Statfs(folder, &fs) != nil || unix.Stat(folder, &st) != nil {
		return UnknownMedium
	}
	switch magic := uint32(fs.Type); {
	case networkFS[magic]:
		return NetworkMedium
	case magic == unix.TMPFS_MAGIC:
		return FlashMedium
	}
	device := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	if unix.Major(st.Dev) == 0 { // a file system over several devices, or over others
		source, err := mountedFrom(device)
		if err != nil || unix.Stat(source, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
			return UnknownMedium
		}
		device = fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	return mediumOfDevice(filepath.Join(sys, "dev", "block", device), sys, depth)
}

// mountedFrom returns the device that a file system is mounted from.
func mountedFrom(device string) (string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo") // see proc(5)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(table)) {
		mount, super, ok := strings.Cut(line, " - ")
		m, s := strings.Fields(mount), strings.Fields(super)
		if ok && len(m) > 2 && len(s) > 1 && m[2] == device {
			return s[1], nil
		}
	}
	return "", os.ErrNotExist
}

// mediumOfDevice looks at a device's folder in sysfs, and at those below it.
func mediumOfDevice(folder, sys string, depth int) Medium {
	folder, err := filepath.EvalSymlinks(folder)
	if err != nil || depth > maxLayers {
		return UnknownMedium
	}
	if slaves, _ := os.ReadDir(filepath.Join(folder, "slaves")); len(slaves) > 0 { // mapped, encrypted, RAID
		slowest := UnknownMedium
		for _, s := range slaves {
			slowest = max(slowest, mediumOfDevice(filepath.Join(folder, "slaves", s.Name()), sys, depth+1))
		}
		return slowest
	}
	if file, err := os.ReadFile(filepath.Join(folder, "loop", "backing_file")); err == nil {
		return mediumOf(strings.TrimSpace(string(file)), sys, depth+1)
	}
	switch {
	case strings.Contains(folder, "/usb"):
		return SlowMedium
	case strings.Contains(folder, "/virtio") || strings.Contains(folder, "/vbd-") || strings.Contains(folder, "/vmbus"):
		return UnknownMedium // a virtual disk says that it spins, whatever it rests on
	}
	spins, err := os.ReadFile(filepath.Join(folder, "queue", "rotational"))
	if err != nil { // a partition: its disk knows
		spins, err = os.ReadFile(filepath.Join(filepath.Dir(folder), "queue", "rotational"))
	}
	switch {
	case err != nil:
		return UnknownMedium
	case strings.TrimSpace(string(spins)) == "0":
		return FlashMedium
	}
	return SlowMedium
}
