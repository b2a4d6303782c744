package mount

import (
	"cmp"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"kassett"
	"kassett/snapshot"
)

// Templates are the names under which snapshots are shown, as restic's flags
// have them. The zero value is restic's default.
type Templates struct {
	// Paths are the places of every snapshot. In them %i stands for its short
	// ID, %I for the long one, %h for the host, %u for the user, %t for each of
	// its tags, and %T for its time. Nil is DefaultPaths.
	Paths []string
	// Time is a layout of [time.Time.Format] for %T; empty is RFC 3339.
	Time string
}

// DefaultPaths returns the places of a snapshot unless others are asked for.
func DefaultPaths() []string {
	return []string{"ids/%i", "snapshots/%T", "hosts/%h/%T", "tags/%t/%T"}
}

// fill puts the defaults in.
func (t Templates) fill() Templates {
	if t.Paths == nil {
		t.Paths = DefaultPaths()
	}
	if t.Time == "" {
		t.Time = time.RFC3339
	}
	return t
}

// expand returns the paths of a snapshot by one template; none if the template
// has tags and the snapshot has not. When the template ends in %T that comes
// apart, as the name of the snapshot in a folder of its like.
func (t Templates) expand(template string, s *snapshot.Snapshot) (paths []string, stamp string) {
	at := s.Time.Format(t.Time)
	paths = []string{""}
	add := func(text string) {
		for i := range paths {
			paths[i] += text
		}
	}
	for len(template) > 0 {
		plain, rest, verb := strings.Cut(template, "%")
		add(plain)
		if !verb || rest == "" {
			break
		}
		template = rest[1:]
		switch rest[0] {
		case 'T':
			if template == "" {
				return paths, at
			}
			add(at)
		case 'i':
			add(s.ID.Short())
		case 'I':
			add(s.ID.String())
		case 'h':
			add(component(s.Hostname))
		case 'u':
			add(component(s.Username))
		case 't':
			var all []string
			for _, tag := range s.Tags {
				for _, p := range paths {
					all = append(all, p+component(tag))
				}
			}
			paths = all
		default:
			add(rest[:1])
		}
	}
	return paths, ""
}

// component makes one name of a path of what a snapshot says of itself.
func component(s string) string {
	switch s = strings.NewReplacer("/", "_", "\x00", "_").Replace(s); s {
	case "", ".":
		return "_"
	case "..":
		return "__"
	}
	return s
}

// fixed returns the folders at the beginning of a template that are the same
// for all snapshots.
func fixed(template string) string {
	plain, _, _ := strings.Cut(template, "%")
	return plain[:max(0, strings.LastIndexByte(plain, '/'))]
}

// top is a folder above the snapshots. It never changes: when there are other
// snapshots there is another one.
type top struct {
	listing
	names  map[string]topEntry
	newest time.Time // of the snapshots in it
}

// topEntry is a name in such a folder: one of the three.
type topEntry struct {
	folder *top
	snap   *snapshot.Snapshot
	link   string // target
}

// newTop puts snapshots, oldest first, into folders.
func newTop(t Templates, list []*snapshot.Snapshot) *top {
	root := &top{}
	for _, template := range t.Paths {
		root.enter(split(fixed(template)))
		for _, s := range list {
			paths, stamp := t.expand(template, s)
			for _, p := range paths {
				root.add(p, stamp, s)
			}
		}
	}
	root.finish(time.Time{})
	return root
}

// split returns the names of a path, without those that mean nothing.
func split(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" || s == "." || s == ".." })
}

// enter returns the folder at a path, which is made where it is not there.
func (d *top) enter(path []string) *top {
	for _, want := range path {
		name := want
		for i := 1; ; i++ {
			e, there := d.names[name]
			if !there {
				e.folder = &top{}
				d.put(name, e)
			}
			if e.folder != nil {
				d = e.folder
				break
			}
			name = want + "-" + strconv.Itoa(i) // a snapshot has the name
		}
	}
	return d
}

func (d *top) put(name string, e topEntry) {
	if d.names == nil {
		d.names = map[string]topEntry{}
	}
	d.names[name] = e
}

// add shows a snapshot at a path. With a stamp, that is its name in the folder
// at path, in which a link "latest" leads to the youngest.
func (d *top) add(path, stamp string, s *snapshot.Snapshot) {
	names := split(path + stamp)
	if len(names) == 0 {
		return
	}
	last := len(names) - 1
	in := d.enter(names[:last])
	name := names[last]
	for i := 1; ; i++ {
		if _, there := in.names[name]; !there {
			break
		}
		name = names[last] + "-" + strconv.Itoa(i)
	}
	in.put(name, topEntry{snap: s})
	if stamp == "" || path != "" && path[len(path)-1] != '/' {
		return
	}
	target := split(stamp)
	target[len(target)-1] = name
	like := d.enter(split(path))
	if e, there := like.names[latest]; !there || e.link != "" {
		like.put(latest, topEntry{link: strings.Join(target, "/"), snap: s})
	}
}

const latest = "latest"

// finish makes the listings, and returns the time of the youngest snapshot.
func (d *top) finish(newest time.Time) time.Time {
	for _, e := range d.names {
		if e.snap != nil && e.snap.Time.After(newest) {
			newest = e.snap.Time
		}
	}
	for name, e := range d.names {
		n := &snapshot.Node{}
		n.Name, n.Links = name, 1
		switch {
		case e.folder != nil:
			at := e.folder.finish(time.Time{})
			n.Type, n.Mode = kassett.Dir, fs.ModeDir|0o555
			n.ModTime, n.AccessTime, n.ChangeTime = at, at, at
			if at.After(newest) {
				newest = at
			}
		case e.link != "":
			n.Type, n.Mode, n.LinkTarget = kassett.Symlink, fs.ModeSymlink|0o777, e.link
			n.ModTime, n.AccessTime, n.ChangeTime = e.snap.Time, e.snap.Time, e.snap.Time
		default:
			*n = *snapshotNode(name, e.snap)
		}
		d.nodes = append(d.nodes, n)
	}
	slices.SortFunc(d.nodes, func(a, b *snapshot.Node) int { return cmp.Compare(a.Name, b.Name) })
	d.newest = newest
	return newest
}

// snapshotNode describes the folder of a snapshot.
func snapshotNode(name string, s *snapshot.Snapshot) *snapshot.Node {
	n := &snapshot.Node{Subtree: s.Tree}
	n.Name, n.Type, n.Mode, n.Links = name, kassett.Dir, fs.ModeDir|0o555, 1
	n.ModTime, n.AccessTime, n.ChangeTime = s.Time, s.Time, s.Time
	return n
}
