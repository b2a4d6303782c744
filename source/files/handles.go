package files

import (
	"container/list"
	"strings"
	"sync"
)

// handles keeps the folders used last open, so that a folder is reached by one
// step from its parent and not by a walk from the root.
type handles struct {
	mu   sync.Mutex
	max  int
	all  map[string]*handle
	idle *list.List // of *handle that nobody uses, the longest unused first
}

// handle is an open folder. It stays open until the last user has put it back.
type handle struct {
	path  string
	dir   folder
	users int
	stale bool          // no longer what path names
	idle  *list.Element // nil while in use
}

// dirent is one name in a folder.
type dirent struct {
	name  string
	inode uint64 // 0 where the system does not tell
}

func (c *handles) init(limit int) {
	c.max, c.all, c.idle = limit, map[string]*handle{}, list.New()
}

// get returns the folder at path, opened by open if need be. The caller puts
// it back.
func (c *handles) get(path string, open func(path string) (folder, error)) (*handle, error) {
	if h := c.cached(path); h != nil {
		return h, nil
	}
	dir, err := open(path)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	if h := c.all[path]; h != nil { // another goroutine was faster
		c.use(h)
		c.mu.Unlock()
		dir.close()
		return h, nil
	}
	h := &handle{path: path, dir: dir, users: 1}
	c.all[path] = h
	var out *handle
	if len(c.all) > c.max && c.idle.Len() > 0 {
		out, _ = c.idle.Front().Value.(*handle)
		c.forget(out)
	}
	c.mu.Unlock()
	if out != nil {
		out.dir.close()
	}
	return h, nil
}

func (c *handles) cached(path string) *handle {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.all[path]
	if h != nil {
		c.use(h)
	}
	return h
}

func (c *handles) use(h *handle) {
	if h.users++; h.idle != nil {
		c.idle.Remove(h.idle)
		h.idle = nil
	}
}

// forget takes h out of the table. The lock is held.
func (c *handles) forget(h *handle) {
	delete(c.all, h.path)
	h.stale = true
	if h.idle != nil {
		c.idle.Remove(h.idle)
		h.idle = nil
	}
}

// put gives a folder back.
func (c *handles) put(h *handle) {
	c.mu.Lock()
	h.users--
	last := h.users == 0
	if last && !h.stale {
		h.idle = c.idle.PushBack(h)
	}
	gone := last && h.stale
	c.mu.Unlock()
	if gone {
		h.dir.close()
	}
}

// drop forgets path and everything below it, because it is being removed.
func (c *handles) drop(path string) {
	var out []*handle
	c.mu.Lock()
	for p, h := range c.all {
		if p == path || strings.HasPrefix(p, path+"/") {
			if c.forget(h); h.users == 0 {
				out = append(out, h)
			}
		}
	}
	c.mu.Unlock()
	for _, h := range out {
		h.dir.close()
	}
}

// close closes every folder; those still in use are closed when put back.
func (c *handles) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.all {
		if c.forget(h); h.users == 0 {
			h.dir.close()
		}
	}
}
