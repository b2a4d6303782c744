package files

import (
	"os/user"
	"strconv"
	"sync"
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
	if known, ok := m.Load(key); ok {
		v, _ := known.(V)
		return v
	}
	v := ask(key)
	m.Store(key, v)
	return v
}
