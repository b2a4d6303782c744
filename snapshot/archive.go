package snapshot

import (
	"archive/tar"
	"archive/zip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/flate"

	"kassett"
)

// tarArchive writes POSIX tar with PAX records.
type tarArchive struct {
	*tar.Writer
	links map[linkKey]string // first names
}

func newTarArchive(w io.Writer) *tarArchive {
	return &tarArchive{Writer: tar.NewWriter(w), links: map[linkKey]string{}}
}

// The bits of a mode in a tar header.
const (
	tarSetuid = 0o4000
	tarSetgid = 0o2000
	tarSticky = 0o1000
)

// lacks implements archive.
func (a *tarArchive) lacks(n *Node) error {
	if _, ok := tarTypes[n.Type]; !ok {
		return fmt.Errorf("an entry of the type %q: %w", n.Type, errSkip)
	}
	if strings.Contains(n.LinkTarget, "\x00") {
		return fmt.Errorf("a link to %q: %w", n.LinkTarget, errSkip)
	}
	for _, x := range n.Xattrs {
		if !tarXattr(x.Name) {
			return fmt.Errorf("the extended attribute %q cannot be in a tar archive", x.Name)
		}
	}
	if len(n.Generic) > 0 {
		return errors.New("attributes of another system cannot be in a tar archive")
	}
	return nil
}

var tarTypes = map[kassett.EntryType]byte{
	kassett.File: tar.TypeReg, kassett.Dir: tar.TypeDir, kassett.Symlink: tar.TypeSymlink,
	kassett.Device: tar.TypeBlock, kassett.CharDevice: tar.TypeChar, kassett.Fifo: tar.TypeFifo,
}

// tarXattr reports whether a PAX record can have the name of an attribute.
func tarXattr(name string) bool { return name != "" && !strings.ContainsAny(name, "=\x00") }

// begin implements archive. A second name of a file is a link to the first.
func (a *tarArchive) begin(path string, n *Node, size int64) (io.Writer, error) {
	h := &tar.Header{
		Typeflag: tarTypes[n.Type], Name: strings.TrimPrefix(path, "/"), Size: size,
		Mode: int64(n.Mode.Perm()), Uid: int(n.UID), Gid: int(n.GID), Uname: n.User, Gname: n.Group,
		ModTime: n.ModTime, AccessTime: n.AccessTime, ChangeTime: n.ChangeTime,
		Linkname: n.LinkTarget, Format: tar.FormatPAX, PAXRecords: tarRecords(n),
	}
	for _, bit := range []struct {
		mode fs.FileMode
		bit  int64
	}{{fs.ModeSetuid, tarSetuid}, {fs.ModeSetgid, tarSetgid}, {fs.ModeSticky, tarSticky}} {
		if n.Mode&bit.mode != 0 {
			h.Mode |= bit.bit
		}
	}
	switch n.Type {
	case kassett.Dir:
		h.Name += "/"
	case kassett.Device, kassett.CharDevice:
		h.Devmajor, h.Devminor = linuxDevice(n.Device)
	case kassett.File:
		if n.Links < 2 {
			break
		}
		key := linkKey{device: n.DeviceID, inode: n.Inode, content: contentHash(n)}
		if first, ok := a.links[key]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return io.Discard, a.WriteHeader(h)
		}
		a.links[key] = h.Name
	}
	return a.Writer, a.WriteHeader(h)
}

// linuxDevice takes a device number apart as Linux puts it together: makedev(3).
func linuxDevice(d uint64) (major, minor int64) {
	//nolint:gosec // the bits are those of two 32-bit numbers
	return int64(d>>8&0xfff | d>>32&^0xfff), int64(d&0xff | d>>12&0xffffff00)
}

// tarRecords returns the PAX records for extended attributes: SCHILY.xattr of
// star, and access control lists also as SCHILY.acl text, which GNU tar reads.
func tarRecords(n *Node) map[string]string {
	records := map[string]string{}
	for _, x := range n.Xattrs {
		if !tarXattr(x.Name) {
			continue
		}
		key := map[string]string{"system.posix_acl_access": "SCHILY.acl.access", "system.posix_acl_default": "SCHILY.acl.default"}[x.Name]
		if text, ok := aclText(x.Value); ok && key != "" {
			records[key] = text
			continue
		}
		records["SCHILY.xattr."+x.Name] = string(x.Value)
	}
	return records
}

// aclText writes a POSIX ACL, as Linux keeps it in an extended attribute, as
// text: linux/posix_acl_xattr.h, acl(5).
func aclText(b []byte) (string, bool) {
	const head, entry, version = 4, 8, 2
	if len(b) < head || (len(b)-head)%entry != 0 || binary.LittleEndian.Uint32(b) != version {
		return "", false
	}
	var lines []string
	for b = b[head:]; len(b) > 0; b = b[entry:] {
		kind, perm, id := binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:])
		name, ok := map[uint16]string{
			0x01: "user:", 0x02: fmt.Sprintf("user:%d", id), 0x04: "group:", 0x08: fmt.Sprintf("group:%d", id),
			0x10: "mask:", 0x20: "other:",
		}[kind]
		if !ok || perm > 7 {
			return "", false
		}
		bits := []byte("---")
		for i := range bits {
			if perm&(4>>i) != 0 {
				bits[i] = "rwx"[i]
			}
		}
		lines = append(lines, name+":"+string(bits))
	}
	return strings.Join(lines, "\n") + "\n", true
}

// zipArchive writes zip.
type zipArchive struct{ *zip.Writer }

func newZipArchive(w io.Writer) zipArchive {
	z := zip.NewWriter(w)
	z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, flate.DefaultCompression) })
	return zipArchive{z}
}

// lacks implements archive.
func (zipArchive) lacks(n *Node) error {
	switch n.Type {
	case kassett.File, kassett.Dir, kassett.Symlink:
		return nil
	}
	return fmt.Errorf("an entry of the type %q: %w", n.Type, errSkip)
}

// begin implements archive.
func (a zipArchive) begin(path string, n *Node, _ int64) (io.Writer, error) {
	h := &zip.FileHeader{Name: strings.TrimPrefix(path, "/"), Modified: n.ModTime, Method: zip.Deflate}
	if h.Modified.Year() < 1980 { // the format's first year
		h.Modified = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	h.NonUTF8 = !utf8.ValidString(h.Name)
	h.SetMode(n.Mode)
	if n.Type != kassett.File {
		h.Method = zip.Store
	}
	if n.Type == kassett.Dir {
		h.Name += "/"
	}
	w, err := a.CreateHeader(h)
	if err == nil && n.Type == kassett.Symlink {
		_, err = io.WriteString(w, n.LinkTarget)
	}
	return w, err
}
