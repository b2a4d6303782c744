package snapshot

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"kassett"
)

// treeJSON and nodeJSON are restic's structs, for trees whose form nodeReader
// does not know: other orders of keys inside attributes, spaces, odd escapes.
type treeJSON struct {
	Nodes []*nodeJSON `json:"nodes"`
}

type nodeJSON struct {
	Name          string                     `json:"name"`
	Type          kassett.EntryType          `json:"type"`
	Mode          fs.FileMode                `json:"mode"`
	ModTime       time.Time                  `json:"mtime"`
	AccessTime    time.Time                  `json:"atime"`
	ChangeTime    time.Time                  `json:"ctime"`
	UID           uint32                     `json:"uid"`
	GID           uint32                     `json:"gid"`
	User          string                     `json:"user"`
	Group         string                     `json:"group"`
	Inode         uint64                     `json:"inode"`
	DeviceID      uint64                     `json:"device_id"`
	Size          uint64                     `json:"size"`
	Links         uint64                     `json:"links"`
	LinkTarget    string                     `json:"linktarget"`
	LinkTargetRaw []byte                     `json:"linktarget_raw"`
	Xattrs        []xattrJSON                `json:"extended_attributes"`
	Generic       map[string]json.RawMessage `json:"generic_attributes"`
	Device        uint64                     `json:"device"`
	Content       []kassett.ID               `json:"content"`
	Subtree       kassett.ID                 `json:"subtree"`
	Error         string                     `json:"error"`
}

type xattrJSON struct {
	Name  string `json:"name"`
	Value []byte `json:"value"`
}

// node copies j into n.
func (j *nodeJSON) node(n *Node) error {
	name, err := strconv.Unquote(`"` + j.Name + `"`)
	if err != nil {
		return fmt.Errorf("read name %.80q: %w", j.Name, err)
	}
	if j.LinkTargetRaw != nil {
		j.LinkTarget = string(j.LinkTargetRaw)
	}
	*n = Node{Content: j.Content, Subtree: j.Subtree, Error: j.Error, Entry: kassett.Entry{
		Name: name, Type: j.Type, Mode: j.Mode,
		ModTime: j.ModTime, AccessTime: j.AccessTime, ChangeTime: j.ChangeTime,
		UID: j.UID, GID: j.GID, User: j.User, Group: j.Group,
		Inode: j.Inode, DeviceID: j.DeviceID, Links: j.Links, Size: j.Size, Device: j.Device,
		LinkTarget: j.LinkTarget, Generic: j.Generic,
	}}
	for _, x := range j.Xattrs {
		n.Xattrs = append(n.Xattrs, kassett.Xattr(x))
	}
	return nil
}
