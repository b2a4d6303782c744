package files

import (
	"os/user"
	"strconv"

	"kassett"
)

// ownersOf returns the numbers of the owner and the group that e is given to:
// with OwnersByName those this machine knows by e's names, otherwise, and for
// unknown names, the recorded ones.
func (t *Target) ownersOf(e *kassett.Entry) (uid, gid int) {
	uid, gid = int(e.UID), int(e.GID)
	if !t.o.OwnersByName {
		return uid, gid
	}
	if id := remember(&t.users, e.User, func(name string) int {
		u, err := user.Lookup(name)
		if err != nil {
			return -1
		}
		return number(u.Uid)
	}); id >= 0 {
		uid = id
	}
	if id := remember(&t.groups, e.Group, func(name string) int {
		g, err := user.LookupGroup(name)
		if err != nil {
			return -1
		}
		return number(g.Gid)
	}); id >= 0 {
		gid = id
	}
	return uid, gid
}

// number reads the number of a user or group; -1 when it is none, as on Windows.
func number(id string) int {
	n, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		return -1
	}
	return int(n)
}
