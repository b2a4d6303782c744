package mount

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"html"
	"io"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"kassett"
	"kassett/snapshot"
)

// Handler serves the view over HTTP: to WebDAV clients (RFC 4918, class 1, all
// that reads), to browsers and to any program that can ask for a range of bytes.
// It asks for no password; whoever serves it decides who may come here. Whatever
// would write is refused.
//
// WebDAV knows folders and files only. Symlinks that lead to something in the
// same snapshot are shown as what they lead to; other links, devices and the like
// are not there.
func (v *View) Handler() http.Handler { return &dav{v} }

// dav answers requests.
type dav struct{ v *View }

// reads are the methods there are.
const reads = "OPTIONS, GET, HEAD, PROPFIND"

// ServeHTTP implements [http.Handler].
func (d *dav) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	// What was backed up may be a page of a stranger: it must not run, nor ask
	// for the rest of the backup.
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'; style-src 'unsafe-inline'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	switch r.Method {
	case http.MethodOptions:
		h.Set("Allow", reads)
		h.Set("DAV", "1")
		h.Set("MS-Author-Via", "DAV")
		w.WriteHeader(http.StatusOK)
	case http.MethodGet, http.MethodHead:
		d.get(w, r)
	case "PROPFIND":
		d.propfind(w, r)
	case http.MethodPut, http.MethodDelete, http.MethodPatch, "PROPPATCH", "MKCOL", "MOVE", "COPY", "LOCK", "UNLOCK":
		http.Error(w, "this is a backup: it can be read only", http.StatusForbidden)
	default:
		h.Set("Allow", reads)
		http.Error(w, "no such method", http.StatusMethodNotAllowed)
	}
}

// place is something in the view that has a path: a file or a folder.
type place struct {
	*snapshot.Node
	in    *folder // that it is in; of a folder, itself
	index int     // of a file, in its folder
}

// errNoPlace is the error of a path that leads nowhere.
var errNoPlace = &kassett.Error{Op: "find", Kind: kassett.NotFound, Err: errors.New("there is no such file or folder")}

// maxHops bounds the symlinks on the way to one place.
const maxHops = 40

// find returns what is at a path of slash-separated names.
func (d *dav) find(ctx context.Context, at string) (*place, error) {
	root := d.v.root()
	n, err := d.v.describe(ctx, root)
	if err != nil {
		return nil, err
	}
	s := &search{v: d.v, hops: maxHops}
	return s.walk(ctx, &place{Node: n, in: root}, strings.Split(at, "/"))
}

// search is the way to one place.
type search struct {
	v    *View
	hops int
}

// walk follows names from a place on.
func (s *search) walk(ctx context.Context, p *place, names []string) (*place, error) {
	for _, name := range names {
		if name == "" {
			continue
		}
		if p.Type != kassett.Dir {
			return nil, errNoPlace
		}
		l, err := s.v.list(ctx, p.in)
		if err != nil {
			return nil, err
		}
		i := l.find(name)
		if i < 0 {
			return nil, errNoPlace
		}
		if p, err = s.step(ctx, p.in, l.nodes[i], i); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// step returns the place that a node of a folder is, or leads to.
func (s *search) step(ctx context.Context, f *folder, n *snapshot.Node, i int) (*place, error) {
	switch n.Type {
	case kassett.File:
		return &place{Node: n, in: f, index: i}, nil
	case kassett.Dir:
		sub, err := s.v.sub(ctx, f, n)
		return &place{Node: n, in: sub}, err
	case kassett.Symlink:
		return s.follow(ctx, f, n.LinkTarget)
	}
	return nil, errNoPlace
}

// follow returns what a symlink leads to, if that is in the same snapshot, or,
// above the snapshots, in the view.
func (s *search) follow(ctx context.Context, f *folder, target string) (*place, error) {
	if s.hops--; s.hops < 0 || len(target) > 32<<10 {
		return nil, errNoPlace
	}
	if strings.HasPrefix(target, "/") {
		for f.parent != nil && f.parent.snap == f.snap {
			f = f.parent
		}
	}
	var down []string
	at := f
	for name := range strings.SplitSeq(target, "/") {
		switch {
		case name == "" || name == ".":
		case name != "..":
			down = append(down, name)
		case len(down) > 0: // what is before the dots may be a link itself
			p, err := s.enter(ctx, at, down)
			if err != nil {
				return nil, err
			}
			at, down = p.parent, nil
			if at == nil || at.snap != f.snap {
				return nil, errNoPlace
			}
		default:
			if at.parent == nil || at.parent.snap != f.snap {
				return nil, errNoPlace
			}
			at = at.parent
		}
	}
	n, err := s.v.describe(ctx, at)
	if err != nil {
		return nil, err
	}
	return s.walk(ctx, &place{Node: n, in: at}, down)
}

// enter returns the folder that names lead to.
func (s *search) enter(ctx context.Context, f *folder, names []string) (*folder, error) {
	p, err := s.walk(ctx, &place{Node: &snapshot.Node{Entry: kassett.Entry{Type: kassett.Dir}}, in: f}, names)
	if err != nil {
		return nil, err
	}
	if p.Type != kassett.Dir {
		return nil, errNoPlace
	}
	return p.in, nil
}

// fail answers with what went wrong. What was read from the repository is not
// shown: the operator sees it where the program runs.
func fail(w http.ResponseWriter, err error) {
	if errors.Is(err, errNoPlace) {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	k := kassett.KindOf(err)
	code := k.Status()
	if code < 500 {
		code = http.StatusInternalServerError
	}
	http.Error(w, "cannot be read: "+k.String(), code)
}

// get sends a file, or a folder as a page of links.
func (d *dav) get(w http.ResponseWriter, r *http.Request) {
	p, err := d.find(r.Context(), r.URL.Path)
	if err != nil {
		fail(w, err)
		return
	}
	if p.Type == kassett.Dir {
		d.page(w, r, p)
		return
	}
	f, err := d.v.open(r.Context(), p.in, p.Node, p.index)
	if err != nil {
		fail(w, err)
		return
	}
	defer f.close()
	body := &reader{ctx: r.Context(), f: f}
	if r.Method == http.MethodGet && r.Header.Get("Range") == "" && f.size > 0 {
		// A file that is damaged at its beginning gets an answer that says so.
		// Later the only way left is to break the connection off.
		var b [1]byte
		if _, err := f.read(r.Context(), b[:], 0); err != nil {
			fail(w, err)
			return
		}
	}
	h := w.Header()
	h.Set("Content-Type", contentType(p.Name))
	h.Set("Content-Disposition", "attachment")
	h.Set("ETag", p.tag())
	http.ServeContent(w, r, "", p.ModTime, body)
}

// contentType says of what type a file is, by its name only.
func contentType(name string) string {
	if t := mime.TypeByExtension(path.Ext(name)); t != "" {
		return t
	}
	return "application/octet-stream"
}

// tag returns the entity tag of a file: its tree and its place there never change
// their content.
func (p *place) tag() string {
	sum := kassett.Hash(fmt.Appendf(p.in.tree[:len(p.in.tree):len(p.in.tree)], "%d", p.index))
	return `"` + hex.EncodeToString(sum[:12]) + `"`
}

// reader reads an open file for [http.ServeContent].
type reader struct {
	ctx context.Context //nolint:containedctx // of one request
	f   *file
	at  int64
}

// Read implements [io.Reader].
func (r *reader) Read(b []byte) (int, error) {
	if r.at >= r.f.size {
		return 0, io.EOF
	}
	got, err := r.f.read(r.ctx, b, r.at)
	n := copy(b, got) // onto itself when it was read in there
	r.at += int64(n)
	if n > 0 {
		err = nil // it comes again with the next read
	}
	return n, err
}

// Seek implements [io.Seeker].
func (r *reader) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += r.at
	case io.SeekEnd:
		off += r.f.size
	}
	if off < 0 {
		return 0, errors.New("seek before the beginning")
	}
	r.at = off
	return off, nil
}

// page shows a folder to a browser.
func (d *dav) page(w http.ResponseWriter, r *http.Request, p *place) {
	if !strings.HasSuffix(r.URL.Path, "/") {
		// Relative links need the slash. No redirect of a path that begins with
		// two: it would lead to another host.
		to := url.URL{Path: "/" + strings.TrimLeft(r.URL.Path, "/") + "/"}
		http.Redirect(w, r, to.EscapedPath(), http.StatusMovedPermanently)
		return
	}
	l, err := d.v.list(r.Context(), p.in)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if r.Method == http.MethodHead {
		return
	}
	out := bufio.NewWriter(w)
	title := html.EscapeString(strings.ToValidUTF8(r.URL.Path, "\uFFFD"))
	_, _ = fmt.Fprintf(out, "<!doctype html><meta charset=utf-8><title>%s</title><style>td{padding:0 1em}td+td{text-align:right}</style><h1>%s</h1><table>\n", title, title)
	if p.in.parent != nil {
		_, _ = fmt.Fprint(out, "<tr><td><a href=\"../\">../</a>\n")
	}
	for i, n := range l.nodes {
		q, err := (&search{v: d.v, hops: maxHops}).step(r.Context(), p.in, n, i)
		if err != nil {
			continue
		}
		slash, size := "/", ""
		if q.Type == kassett.File {
			slash, size = "", fmt.Sprint(q.Size)
		}
		_, err = fmt.Fprintf(out, "<tr><td><a href=\"./%s%s\">%s%s</a><td>%s<td>%s\n", escape(n.Name), slash,
			html.EscapeString(strings.ToValidUTF8(n.Name, "\uFFFD")), slash, size, q.ModTime.Local().Format(time.DateTime))
		if err != nil {
			return
		}
	}
	_, _ = fmt.Fprint(out, "</table>\n")
	_ = out.Flush() // the reader has gone
}

// escape writes a name, of any bytes, as a part of a URL.
func escape(name string) string {
	const plain = "-._~" // RFC 3986, and letters and digits
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(plain, c) >= 0 {
			b.WriteByte(c)
			continue
		}
		_, _ = fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}
