package files

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"kassett"
)

// Patterns is a list of include or exclude patterns with restic's meaning.
//
// A pattern is matched name by name, each with the wildcards of
// [filepath.Match]. One that begins with a separator is matched from the root
// on, any other at every depth. "**" as a name matches any number of names. A
// pattern that matches a folder matches all that is in it. A pattern that
// begins with "!" takes back what the ones before it matched; the last word
// counts. It is safe for use by many goroutines.
type Patterns struct {
	list   []pattern
	fold   bool
	negate bool // some pattern does
}

type pattern struct {
	parts  []piece
	rooted bool // the first part is the root
	negate bool
	deep   []int // where the parts "**" are
}

type piece struct {
	text string
	how  howMatch
}

// howMatch is the quickest way to match one name.
type howMatch uint8

const (
	matchEqual  howMatch = iota // no wildcards
	matchSuffix                 // "*" and text
	matchGlob                   // whatever filepath.Match says
	matchDeep                   // "**": any number of names
)

// Path is a path made ready to be matched.
type Path struct{ names []string }

// NewPath splits a path at its separators. A leading separator makes it rooted.
func NewPath(path string) Path { return Path{splitPath(path)} }

// setChild makes p, whose last name is to be replaced, the path of something
// else in the same folder, without allocating.
func (p Path) setChild(name string) { p.names[len(p.names)-1] = name }

// folderPath returns the path of something in dir that setChild names.
func folderPath(dir string) Path {
	names := splitPath(dir)
	if len(names) == 2 && names[0] == "/" && names[1] == "" { // "/" itself
		return Path{names}
	}
	return Path{append(names, "")}
}

func splitPath(path string) []string {
	names := strings.Split(filepath.ToSlash(path), "/")
	if names[0] == "" {
		names[0] = "/"
	}
	return names
}

// NewPatterns parses patterns. Empty ones are ignored. With fold, upper and
// lower case are alike. A malformed pattern is an [kassett.Invalid] error.
func NewPatterns(patterns []string, fold bool) (*Patterns, error) {
	p := &Patterns{fold: fold}
	for _, text := range patterns {
		if text == "" {
			continue
		}
		one, err := parsePattern(text, fold)
		if err != nil {
			return nil, &kassett.Error{
				Op: "read pattern", What: fmt.Sprintf("%q", text), Kind: kassett.Invalid, Err: err,
				Hint: `close every [ with ], and write \[ for a bracket itself`,
			}
		}
		p.list = append(p.list, one)
		p.negate = p.negate || one.negate
	}
	return p, nil
}

func parsePattern(text string, fold bool) (pattern, error) {
	if fold {
		text = strings.ToLower(text)
	}
	var p pattern
	text, p.negate = strings.CutPrefix(text, "!")
	for i, name := range splitPath(filepath.Clean(text)) {
		if _, err := filepath.Match(name, name); err != nil {
			return p, err
		}
		how := matchEqual
		switch {
		case name == "**" || name == "": // "" is what follows the root in "/" alone
			how = matchDeep
			p.deep = append(p.deep, i)
		case name[0] == '*' && !strings.ContainsAny(name[1:], special):
			how, name = matchSuffix, name[1:]
		case strings.ContainsAny(name, special):
			how = matchGlob
		}
		p.parts = append(p.parts, piece{name, how})
	}
	p.rooted = p.parts[0] == piece{"/", matchEqual}
	return p, nil
}

// special holds the characters that mean something in a pattern.
const special = `\[]*?`

// Match reports whether path is matched.
func (p *Patterns) Match(path Path) bool {
	matched, _ := p.match(path, false)
	return matched
}

// MatchChild reports whether path is matched, and whether something below it
// may be. Where nothing may be, a folder need not be looked into.
func (p *Patterns) MatchChild(path Path) (matched, below bool) { return p.match(path, true) }

func (p *Patterns) match(path Path, children bool) (matched, below bool) {
	names := path.names
	if p.fold {
		names = make([]string, len(path.names))
		for i, n := range path.names {
			names[i] = strings.ToLower(n)
		}
	}
	for i := range p.list {
		one := &p.list[i]
		m := one.match(names)
		c := !children || one.matchChild(names)
		if one.negate {
			matched, below = matched && !m, below && !m
			continue
		}
		matched, below = matched || m, below || c
		if matched && below && !p.negate {
			break
		}
	}
	return matched, below
}

// match reports whether the pattern matches the path of these names, or a
// folder above it.
func (p *pattern) match(names []string) bool {
	first, last := 0, len(names)-len(p.parts)+len(p.deep)
	switch {
	case p.rooted:
		last = min(last, 0)
	case names[0] == "/":
		first = 1
	}
	if len(p.deep) == len(p.parts) { // something must be left to match
		last--
	}
	for at := last; at >= first; at-- {
		if p.matchAt(names, at) {
			return true
		}
	}
	return false
}

// matchAt reports whether the pattern matches names from at on. What stands
// between two "**" is placed as far left as it goes, which leaves most to the
// rest. As in restic each "**" still to come counts as one name when an
// earlier one is placed, so a/**/b/**/c does not match a/b/c without a root.
func (p *pattern) matchAt(names []string, at int) bool {
	start := at
	end := len(p.parts)
	if len(p.deep) > 0 {
		end = p.deep[0]
	}
	if !matchAll(p.parts[:end], names, at) {
		return false
	}
	at += end
	for i, deep := range p.deep {
		next := len(p.parts)
		if i+1 < len(p.deep) {
			next = p.deep[i+1]
		}
		parts := p.parts[deep+1 : next]
		fixed := deep - i                              // names that the parts before take
		limit := len(names) - (len(p.parts) - (i + 1)) // of names that "**" may take so far
		for ; ; at++ {
			if at-start-fixed > limit || at > len(names) {
				return false
			}
			if matchAll(parts, names, at) {
				break
			}
		}
		at += len(parts)
	}
	return true
}

// matchAll reports whether each part matches the name at its place.
func matchAll(parts []piece, names []string, at int) bool {
	if at+len(parts) > len(names) {
		return false
	}
	for i, p := range slices.Backward(parts) { // names differ most at their ends
		if !p.match(names[at+i]) {
			return false
		}
	}
	return true
}

func (p piece) match(name string) bool {
	switch p.how {
	case matchEqual:
		return p.text == name
	case matchSuffix:
		return strings.HasSuffix(name, p.text)
	default:
		ok, err := filepath.Match(p.text, name)
		return ok && err == nil
	}
}

// matchChild reports whether something below the path of these names may match.
func (p *pattern) matchChild(names []string) bool {
	if !p.rooted {
		return true
	}
	n := min(len(names), len(p.parts))
	if len(p.deep) > 0 {
		n = min(n, p.deep[0])
	}
	return matchAll(p.parts[:n], names, 0)
}
