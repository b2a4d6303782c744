package kassett

import (
	"context"
	"errors"
	"io/fs"
	"strings"
)

// Kind says what the reader of an error can do about it. Exit codes, HTTP
// statuses, retries and the words of the pages follow from it.
type Kind uint8

// Kinds are stored and sent between versions: never reorder, add at the end.
const (
	Other         Kind = iota // no better word: a bug or an unknown failure
	Invalid                   // the request makes no sense; change it
	Incomplete                // done, but not all of it; what is missing was named
	Corrupt                   // stored bytes are not what was written; use another copy
	Exists                    // it is there already
	Full                      // no room left; free some or add a medium
	Denied                    // the system or the storage does not allow it
	Offline                   // a medium or a machine is away; bring it or wait
	Held                      // a floor, a hold or the last good copy forbids it
	NotFound                  // it is not there
	Locked                    // someone else holds it; wait
	WrongPassword             // no key opens with this password
	Interrupted               // stopped by a person or the system
)

// kinds follows the order above. Exit codes that restic has are restic's:
// 1 fatal, 3 incomplete, 10 no repository, 11 locked, 12 wrong password, 130.
var kinds = [...]struct {
	word   string
	exit   int  // process exit code
	retry  bool // worth trying again without a person
	status int  // HTTP
}{
	Other:         {"failed", 1, false, 500},
	Invalid:       {"invalid", 2, false, 400},
	Incomplete:    {"incomplete", 3, false, 500},
	Corrupt:       {"damaged", 4, false, 500},
	Exists:        {"exists already", 5, false, 409},
	Full:          {"no room left", 6, false, 507},
	Denied:        {"not allowed", 7, false, 403},
	Offline:       {"not reachable", 8, true, 503},
	Held:          {"held", 9, false, 403},
	NotFound:      {"not found", 10, false, 404},
	Locked:        {"locked", 11, true, 423},
	WrongPassword: {"wrong password", 12, false, 401},
	Interrupted:   {"interrupted", 130, false, 499},
}

func (k Kind) String() string { return kinds[k].word }

// Exit returns the exit code of a command that failed for this reason.
func (k Kind) Exit() int { return kinds[k].exit }

// Retry reports whether the same call may succeed later by itself.
func (k Kind) Retry() bool { return kinds[k].retry }

// Status returns the HTTP status of an answer that failed for this reason.
func (k Kind) Status() int { return kinds[k].status }

// Error is an error whose Kind or Hint matters to someone far from the fault.
// Near callers wrap with fmt.Errorf and %w instead.
type Error struct {
	Op   string // what was tried, verb first: "read pack"
	What string // on what: an ID, a path the user named, a label
	Kind Kind
	Hint string // what a tired operator should do next; may be empty
	Err  error  // the cause; may be nil
}

// Error says all but the hint, on one line: "read pack 3fa9…: damaged: …".
func (e *Error) Error() string {
	head := strings.TrimSpace(e.Op + " " + e.What)
	parts := make([]string, 0, 3)
	if head != "" {
		parts = append(parts, head)
	}
	if e.Kind != Other || e.Err == nil {
		parts = append(parts, e.Kind.String())
	}
	if e.Err != nil {
		parts = append(parts, e.Err.Error())
	}
	return strings.Join(parts, ": ")
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the Kind of the outermost [Error] in err's chain that has one,
// or what the standard library's own errors say.
func KindOf(err error) Kind {
	for rest := err; ; {
		var e *Error
		if !errors.As(rest, &e) {
			break
		}
		if e.Kind != Other {
			return e.Kind
		}
		rest = e.Err
	}
	switch {
	case errors.Is(err, context.Canceled):
		return Interrupted
	case errors.Is(err, context.DeadlineExceeded):
		return Offline
	case errors.Is(err, fs.ErrNotExist):
		return NotFound
	case errors.Is(err, fs.ErrExist):
		return Exists
	case errors.Is(err, fs.ErrPermission):
		return Denied
	}
	return Other
}

// HintOf returns the outermost hint in err's chain, or "".
func HintOf(err error) string {
	for {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
}
