package storage

import (
	"strings"
	"unsafe"

	"golang.org/x/sys/windows"
)

// What is asked of a storage device, of winioctl.h.
const (
	ioctlStorageQueryProperty = 0x2d1400
	deviceProperty            = 0
	seekPenaltyProperty       = 7
	busTypeUSB                = 7
)

type propertyQuery struct{ id, query, more uint32 }

// MediumOf returns what a folder rests on, as the system tells it.
func MediumOf(folder string) Medium {
	path, err := windows.UTF16PtrFromString(folder)
	if err != nil {
		return UnknownMedium
	}
	var root [windows.MAX_PATH + 1]uint16
	if windows.GetVolumePathName(path, &root[0], uint32(len(root))) != nil {
		return UnknownMedium
	}
	switch windows.GetDriveType(&root[0]) {
	case windows.DRIVE_REMOTE:
		return NetworkMedium
	case windows.DRIVE_REMOVABLE, windows.DRIVE_CDROM:
		return SlowMedium
	case windows.DRIVE_RAMDISK:
		return FlashMedium
	}
	volume, err := windows.UTF16PtrFromString(`\\.\` + strings.TrimSuffix(windows.UTF16ToString(root[:]), `\`))
	if err != nil {
		return UnknownMedium
	}
	h, err := windows.CreateFile(volume, 0, windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE, nil, windows.OPEN_EXISTING, 0, 0)
	if err != nil {
		return UnknownMedium
	}
	defer func() { _ = windows.CloseHandle(h) }() // it was only asked
	ask := func(id uint32, answer []byte) bool {
		q := propertyQuery{id: id}
		var n uint32
		return windows.DeviceIoControl(h, ioctlStorageQueryProperty, (*byte)(unsafe.Pointer(&q)), uint32(unsafe.Sizeof(q)),
			&answer[0], uint32(len(answer)), &n, nil) == nil
	}
	// STORAGE_DEVICE_DESCRIPTOR has its BusType after 28 bytes,
	// DEVICE_SEEK_PENALTY_DESCRIPTOR its IncursSeekPenalty after 8.
	var device [1024]byte
	if ask(deviceProperty, device[:]) && device[28] == busTypeUSB {
		return SlowMedium
	}
	var seek [12]byte
	switch {
	case !ask(seekPenaltyProperty, seek[:]):
		return UnknownMedium
	case seek[8] != 0:
		return SlowMedium
	}
	return FlashMedium
}
