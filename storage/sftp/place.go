package sftp

import (
	"errors"
	"net/url"
	"path"
	"strconv"
	"strings"

	"kassett"
)

// Place is where a repository rests on an SFTP server.
type Place struct {
	User string // "" for the client's own rule
	Host string
	Port int    // 0 for the client's own rule, which without one is 22
	Path string // slash-separated; relative to where the server puts the user
}

// ParsePlace reads what follows "sftp:" in a repository's place, as restic
// spells it: user@host:path, or //user@host:port/path where the path is
// absolute only when a second slash begins it.
func ParsePlace(s string) (Place, error) {
	bad := func(why string) error {
		return &kassett.Error{
			Op: "read place", What: "sftp:" + s, Kind: kassett.Invalid, Err: errors.New(why),
			Hint: "write sftp:user@host:/path, or sftp://user@host:port//path",
		}
	}
	var p Place
	if rest, ok := strings.CutPrefix(s, "//"); ok {
		u, err := url.Parse("sftp://" + rest)
		if err != nil {
			return Place{}, bad("it is not a URL")
		}
		if _, has := u.User.Password(); has {
			return Place{}, &kassett.Error{
				Op: "read place", What: "sftp://…", Kind: kassett.Invalid, Err: errors.New("it holds a password"),
				Hint: "log in with a key: ssh-copy-id user@host brings one there",
			}
		}
		p.User, p.Host, p.Path = u.User.Username(), u.Hostname(), strings.TrimPrefix(u.Path, "/")
		if text := u.Port(); text != "" {
			if p.Port, err = strconv.Atoi(text); err != nil || p.Port < 1 || p.Port > 65535 {
				return Place{}, bad("it has no port between 1 and 65535")
			}
		}
	} else {
		host, dir, ok := cutHost(s)
		if !ok {
			return Place{}, bad("no colon divides the host from the path")
		}
		p.Path = dir
		if i := strings.LastIndexByte(host, '@'); i >= 0 {
			p.User, host = host[:i], host[i+1:]
		}
		p.Host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	switch {
	case p.Host == "":
		return Place{}, bad("it names no host")
	case strings.HasPrefix(p.Host, "-") || strings.HasPrefix(p.User, "-"):
		return Place{}, bad("neither a host nor a user begins with a dash") // ssh would take it for an option
	case p.Path == "":
		return Place{}, bad("it names no folder")
	case strings.HasPrefix(p.Path, "~"):
		return Place{}, bad("SFTP knows no ~; a path without a slash begins in the user's folder")
	}
	p.Path = path.Clean(p.Path)
	return p, nil
}

// cutHost splits user@host:path; an IPv6 address stands in brackets.
func cutHost(s string) (host, dir string, ok bool) {
	if end := strings.Index(s, "]:"); end >= 0 && strings.Contains(s[:end], "[") {
		return s[:end+1], s[end+2:], true
	}
	return strings.Cut(s, ":")
}

// String returns the place as [ParsePlace] reads it.
func (p Place) String() string {
	host := p.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if p.User != "" {
		host = p.User + "@" + host
	}
	if p.Port == 0 {
		return host + ":" + p.Path
	}
	return "//" + host + ":" + strconv.Itoa(p.Port) + "/" + p.Path
}
