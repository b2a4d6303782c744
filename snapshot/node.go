package snapshot

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"kassett"
)

// Node is one entry of a folder in a snapshot: what the source said of it, and
// where its content rests.
type Node struct {
	kassett.Entry
	// Content lists the data blobs of a file in order. Of an empty file it is
	// empty but not nil; of anything else it is nil.
	Content []kassett.ID
	// Subtree is the tree of a folder, zero for anything else.
	Subtree kassett.ID
	// Error is what an old restic noted when it could not save all of the
	// node. It is kept, and not written by us.
	Error string
}

// Safe reports whether the node's name is one path component, so that joining
// it to a folder stays inside the folder. A tree from a hostile writer may hold
// other names.
func (n *Node) Safe() bool {
	return n.Name != "" && n.Name != "." && n.Name != ".." && !strings.ContainsAny(n.Name, "/\x00")
}

// Equal reports whether both nodes say the same. Instants are compared, not
// their time zones; the cut of an entry is not part of a node.
func (n *Node) Equal(o *Node) bool {
	return n.sameMetadata(&o.Entry) && n.sameExtra(&o.Entry) &&
		n.Subtree == o.Subtree && n.Error == o.Error &&
		(n.Content == nil) == (o.Content == nil) && slices.Equal(n.Content, o.Content)
}

// sameMetadata compares what the listing of a folder tells.
func (n *Node) sameMetadata(e *kassett.Entry) bool {
	return n.Name == e.Name && n.Type == e.Type && n.Mode == e.Mode && n.Size == e.Size &&
		n.ModTime.Equal(e.ModTime) && n.AccessTime.Equal(e.AccessTime) && n.ChangeTime.Equal(e.ChangeTime) &&
		n.UID == e.UID && n.GID == e.GID && n.User == e.User && n.Group == e.Group &&
		n.Inode == e.Inode && n.DeviceID == e.DeviceID && n.Links == e.Links && n.Device == e.Device
}

// sameExtra compares what Source.Fill adds.
func (n *Node) sameExtra(e *kassett.Entry) bool {
	return n.LinkTarget == e.LinkTarget &&
		slices.EqualFunc(n.Xattrs, e.Xattrs, func(a, b kassett.Xattr) bool {
			return a.Name == b.Name && (a.Value == nil) == (b.Value == nil) && bytes.Equal(a.Value, b.Value)
		}) &&
		maps.EqualFunc(n.Generic, e.Generic, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) })
}
