// Package files reads and restores trees of files.
//
// A [Source] shows the targets of a backup as one tree: /usr/share and /etc
// become usr/share and etc below an empty root, each folder above a target
// with its real metadata, exactly as restic arranges a snapshot. A [Target]
// takes such a tree back into one folder and touches nothing outside it,
// whatever names and links the tree holds. [Patterns] are restic's include
// and exclude patterns, used on both ways.
//
// Both sides reach every entry through an open handle of its folder and a name
// without a separator. So no path is ever walked twice, none is too long for
// the system, and no symbolic link that appears at the wrong moment leads
// anywhere else.
package files
