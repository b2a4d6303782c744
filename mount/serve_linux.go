package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kassett"
)

const (
	// maxRead is how much the kernel asks for at once, in bytes. What it reads
	// ahead by itself comes in smaller pieces.
	maxRead = 1 << 20
	// maxInFlight bounds the memory of the kernel's requests.
	maxInFlight = 64 << 20
)

// Mounted is a view that a folder of this machine shows.
type Mounted struct {
	server *fuse.Server
	done   chan struct{}
	at     string
}

// CheckMountpoint reports what is in the way of mounting at a folder: it is not
// there, not a folder, not empty, or shows something that is mounted there, alive
// or dead.
func CheckMountpoint(at string) error {
	bad := func(kind kassett.Kind, err error, hint string) error {
		return &kassett.Error{Op: "mount at", What: at, Kind: kind, Err: err, Hint: hint}
	}
	st, err := os.Stat(at)
	switch {
	case errors.Is(err, syscall.ENOTCONN):
		return bad(kassett.Exists, errors.New("what was mounted here has died"),
			"take the dead mount away with: fusermount3 -u "+at+" (as root: umount "+at+"), then mount again")
	case errors.Is(err, fs.ErrNotExist):
		return bad(kassett.NotFound, errors.New("there is no such folder"), "make it with: mkdir "+at)
	case err != nil:
		return bad(kassett.KindOf(err), err, "use a folder that you may read and write")
	case !st.IsDir():
		return bad(kassett.Invalid, errors.New("it is not a folder"), "use an empty folder")
	}
	for m := range mounts() {
		if m.at != at {
			continue
		}
		return bad(kassett.Exists, fmt.Errorf("%s is mounted here already", m.source),
			"use another folder, or end that mount with: fusermount3 -u "+at)
	}
	names, err := os.ReadDir(at)
	if err != nil {
		return bad(kassett.KindOf(err), err, "use a folder that you may read and write")
	}
	if len(names) > 0 {
		return bad(kassett.Invalid, fmt.Errorf("it is not empty, and a mount would hide what is in it"), "use an empty folder")
	}
	if os.Geteuid() != 0 {
		if err := unix.Access(at, unix.W_OK|unix.X_OK); err != nil {
			return bad(kassett.Denied, err, "use a folder that you may write: the system mounts for users in such only")
		}
	}
	return nil
}

// mountLine is a line of the system's table of mounts.
type mountLine struct{ source, at string }

// mounts yields what is mounted.
func mounts() func(yield func(mountLine) bool) {
	return func(yield func(mountLine) bool) {
		b, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			return // then mounting itself tells
		}
		// Spaces and the like are written as \040.
		plain := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) >= 2 && !yield(mountLine{plain.Replace(f[0]), plain.Replace(f[1])}) {
				return
			}
		}
	}
}

// Mount shows the view at an empty folder, given by its absolute path without
// symlinks. It ends with Unmount, or when somebody else unmounts it; Done tells.
func (v *View) Mount(at string, o FUSEOptions) (*Mounted, error) {
	if err := CheckMountpoint(at); err != nil {
		return nil, err
	}
	options := []string{"ro"}
	if o.AllowOther && !o.NoPermissions {
		options = append(options, "default_permissions")
	}
	server, err := fuse.NewServer(newSystem(v, o), at, &fuse.MountOptions{
		AllowOther: o.AllowOther, Options: options,
		FsName: "kassett:" + v.r.Config().ID[:10], Name: "kassett",
		MaxWrite: maxRead, MaxReadAhead: maxRead, MaxInflightRequestBytes: maxInFlight,
		EnableSymlinkCaching: true,
		DirectMount:          os.Geteuid() == 0, DirectMountFlags: unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV,
		Logger: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	})
	if err != nil {
		return nil, whyNot(at, o, err)
	}
	m := &Mounted{server: server, done: make(chan struct{}), at: at}
	go func() {
		defer close(m.done)
		server.Serve()
	}()
	if err := server.WaitMount(); err != nil {
		return nil, errors.Join(whyNot(at, o, err), m.Unmount())
	}
	return m, nil
}

// whyNot turns the library's words into what an operator can do.
func whyNot(at string, o FUSEOptions, err error) error {
	e := &kassett.Error{Op: "mount at", What: at, Kind: kassett.Denied, Err: err}
	const other = "; or serve the same view without FUSE: kassett mount --webdav 127.0.0.1:8080"
	_, dev := os.Stat("/dev/fuse")
	switch {
	case dev != nil:
		e.Kind, e.Err = kassett.NotFound, errors.New("this system has no /dev/fuse")
		e.Hint = "load the kernel module with: modprobe fuse; in a container, give it the device /dev/fuse" + other
	case os.Geteuid() != 0 && !hasFusermount():
		e.Kind, e.Err = kassett.NotFound, errors.New("the program fusermount3 is not installed")
		e.Hint = "install the package fuse3 (apt install fuse3)" + other
	case unix.Access("/dev/fuse", unix.R_OK|unix.W_OK) != nil:
		e.Err = errors.New("you may not use /dev/fuse")
		e.Hint = "root lets everybody use it, as most systems do, with: chmod 666 /dev/fuse" + other
	case os.Geteuid() != 0 && o.AllowOther:
		e.Hint = "root must write the line user_allow_other into /etc/fuse.conf; or leave --allow-other out"
	default:
		e.Hint = "see that you may write the folder and use /dev/fuse; in a container, allow SYS_ADMIN" + other
	}
	return e
}

// hasFusermount reports whether the program is there by which users mount.
func hasFusermount() bool {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/bin") {
		for _, name := range []string{"fusermount3", "fusermount"} {
			if st, err := os.Stat(filepath.Join(dir, name)); err == nil && st.Mode()&0o111 != 0 {
				return true
			}
		}
	}
	return false
}

// Done is closed when the view is mounted no longer.
func (m *Mounted) Done() <-chan struct{} { return m.done }

// Unmount takes the view away and waits until the kernel asks no more. While
// some program uses it the error is [kassett.Locked] and says which.
func (m *Mounted) Unmount() error {
	err := m.server.Unmount()
	if err != nil {
		select {
		case <-m.done: // somebody was faster
			return nil
		default:
		}
		if users := m.users(); len(users) > 0 {
			err = fmt.Errorf("it is used by %s", strings.Join(users, ", "))
		}
		return &kassett.Error{
			Op: "unmount", What: m.at, Kind: kassett.Locked, Err: err,
			Hint: "leave the folder in those programs and shells, or close them",
		}
	}
	<-m.done
	return nil
}

// users names the programs that have a file or their working folder in the mount,
// as far as the system tells this user.
func (m *Mounted) users() (names []string) {
	const most = 8
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	for _, p := range all {
		if !m.usedBy(p) {
			continue
		}
		name, err := os.ReadFile(filepath.Join(p, "comm"))
		if err != nil {
			name = []byte("process")
		}
		if len(names) == most {
			return append(names, "and others")
		}
		names = append(names, strings.TrimSpace(string(name))+" ("+filepath.Base(p)+")")
	}
	return names
}

func (m *Mounted) usedBy(process string) bool {
	if filepath.Base(process) == strconv.Itoa(os.Getpid()) {
		return false
	}
	links := []string{filepath.Join(process, "cwd"), filepath.Join(process, "root")}
	fds, err := filepath.Glob(filepath.Join(process, "fd", "*"))
	if err == nil {
		links = append(links, fds...)
	}
	for _, l := range links {
		at, err := os.Readlink(l)
		if err == nil && (at == m.at || strings.HasPrefix(at, m.at+"/")) {
			return true
		}
	}
	return false
}
