package files

import (
	"os/user"
	"strconv"
	"sync"

	"kassett"
)

// owners remembers the names of users and groups: asking the system reads and
// parses whole files.
type owners struct {
	users, groups sync.Map // uint32 → string
}

func (o *owners) user(id uint32) string {
	return remember(&o.users, id, func(id uint32) string {
		if u, err := user.LookupId(strconv.FormatUint(uint64(id), 10)); err == nil {
			return u.Username
		}
		return ""
	})
}

func (o *owners) group(id uint32) string {
	return remember(&o.groups, id, func(id uint32) string {
		if g, err := user.LookupGroupId(strconv.FormatUint(uint64(id), 10)); err == nil {
			return g.Name
		}
		return ""
	})
}

// remember returns what ask says about key, asking once.
func remember[K comparable, V any](m *sync.Map, key K, ask func(K) V) V {
	if v, ok := m.Load(key); ok {
		return v.(V) //nolint:forcetypeassert // only such values are stored
	}
	v := ask(key)
	m.Store(key, v)
	return v
}

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
