package kassett

import (
	"fmt"
	"strconv"
	"strings"
)

// CutKind is a way to cut a file's content into blobs.
type CutKind uint8

// The three cuts.
const (
	CutContent CutKind = iota // where the content says, exactly as restic does
	CutWhole                  // not at all, up to [MaxBlob]
	CutPage                   // every n bytes: pages of a database, blocks of an image
)

// MaxBlob is the largest piece any cut makes, in bytes: the largest chunk that
// restic itself writes, so that every reader of the format is used to it.
const MaxBlob = 8 << 20

// MinPage is the smallest page of [CutPage], in bytes.
const MinPage = 4 << 10

// Cut says how a file's content is cut into blobs. The source decides, the
// snapshot's tags record it, and the engine never guesses it from a name. The
// zero Cut is restic's own.
type Cut struct {
	Kind CutKind
	Page uint32 // bytes, for CutPage: from MinPage to MaxBlob, a multiple of MinPage
}

// ParseCut reads "content", "whole" or "page=SIZE", with SIZE in bytes or with
// the suffix KiB or MiB.
func ParseCut(s string) (Cut, error) {
	switch s {
	case "", "content":
		return Cut{}, nil
	case "whole":
		return Cut{Kind: CutWhole}, nil
	}
	bad := func(why string) error {
		return &Error{
			Op: "parse cut", What: strconv.Quote(s), Kind: Invalid, Err: fmt.Errorf("%s", why),
			Hint: "use content, whole, or page=SIZE with SIZE from 4KiB to 8MiB, a multiple of 4KiB",
		}
	}
	size, ok := strings.CutPrefix(s, "page=")
	if !ok {
		return Cut{}, bad("not a cut")
	}
	unit := uint64(1)
	if n, ok := strings.CutSuffix(size, "KiB"); ok {
		size, unit = n, 1<<10
	} else if n, ok := strings.CutSuffix(size, "MiB"); ok {
		size, unit = n, 1<<20
	}
	n, err := strconv.ParseUint(size, 10, 32)
	if err != nil {
		return Cut{}, bad("not a size")
	}
	if n *= unit; n < MinPage || n > MaxBlob || n%MinPage != 0 {
		return Cut{}, bad("page size out of range")
	}
	return Cut{Kind: CutPage, Page: uint32(n)}, nil
}

// String returns what [ParseCut] reads.
func (c Cut) String() string {
	switch {
	case c.Kind == CutWhole:
		return "whole"
	case c.Kind == CutPage && c.Page%(1<<20) == 0:
		return fmt.Sprintf("page=%dMiB", c.Page>>20)
	case c.Kind == CutPage && c.Page%(1<<10) == 0:
		return fmt.Sprintf("page=%dKiB", c.Page>>10)
	case c.Kind == CutPage:
		return fmt.Sprintf("page=%d", c.Page)
	}
	return "content"
}
