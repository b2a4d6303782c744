package mount

import (
	"bufio"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"kassett"
	"kassett/snapshot"
)

// maxQuestion bounds the body of a PROPFIND, in bytes.
const maxQuestion = 64 << 10

// question is the body of a PROPFIND (RFC 4918, section 14.20).
type question struct {
	XMLName xml.Name  `xml:"DAV: propfind"`
	All     *struct{} `xml:"DAV: allprop"`
	Names   *struct{} `xml:"DAV: propname"`
	Prop    struct {
		Names []property `xml:",any"`
	} `xml:"DAV: prop"`
}

// property is the name of a property that somebody asks for.
type property struct{ XMLName xml.Name }

// properties are those there are, all in the name space "DAV:".
var properties = []string{
	"resourcetype", "displayname", "creationdate", "getlastmodified",
	"getcontentlength", "getcontenttype", "getetag", "supportedlock",
}

// ofFiles are those that a folder has not.
var ofFiles = []string{"getcontentlength", "getcontenttype", "getetag"}

// propfind describes a place and, with depth 1, what is in it.
func (d *dav) propfind(w http.ResponseWriter, r *http.Request) {
	depth := r.Header.Get("Depth")
	if depth != "0" && depth != "1" {
		w.Header().Set("Content-Type", "application/xml; charset=utf-8")
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, xml.Header+`<D:error xmlns:D="DAV:"><D:propfind-finite-depth/></D:error>`)
		return
	}
	var q question
	body := xml.NewDecoder(http.MaxBytesReader(w, r.Body, maxQuestion))
	if err := body.Decode(&q); err != nil && !errors.Is(err, io.EOF) {
		http.Error(w, "the body is not a PROPFIND", http.StatusBadRequest)
		return
	}
	p, err := d.find(r.Context(), r.URL.Path)
	if err != nil {
		fail(w, err)
		return
	}
	var l *listing
	if depth == "1" && p.Type == kassett.Dir {
		if l, err = d.v.list(r.Context(), p.in); err != nil {
			fail(w, err)
			return
		}
	}
	w.Header().Set("Content-Type", "application/xml; charset=utf-8")
	w.WriteHeader(http.StatusMultiStatus)
	a := &answer{w: bufio.NewWriterSize(w, 32<<10), q: &q}
	var path strings.Builder
	for name := range strings.SplitSeq(r.URL.Path, "/") {
		if name != "" {
			path.WriteString("/" + escape(name))
		}
	}
	base := path.String()
	a.text(xml.Header + `<D:multistatus xmlns:D="DAV:">`)
	a.place(base, p)
	if l != nil {
		for i, n := range l.nodes {
			if a.err != nil || r.Context().Err() != nil {
				return
			}
			d.member(r, a, base, member{p.in, n, i})
		}
	}
	a.text("</D:multistatus>\n")
	_ = a.w.Flush() // the reader has gone
}

// member is a node of a folder.
type member struct {
	in    *folder
	node  *snapshot.Node
	index int
}

// member describes what is in a folder. What a link leads to has the link's name.
func (d *dav) member(r *http.Request, a *answer, base string, m member) {
	p, err := (&search{v: d.v, hops: maxHops}).step(r.Context(), m.in, m.node, m.index)
	if err != nil {
		return
	}
	if p.Name != m.node.Name {
		named := *p.Node
		named.Name = m.node.Name
		p.Node = &named
	}
	a.place(base+"/"+escape(m.node.Name), p)
}

// answer is a multistatus being written. Its first error ends it.
type answer struct {
	w   *bufio.Writer
	q   *question
	err error
}

func (a *answer) text(s string) {
	if a.err == nil {
		_, a.err = a.w.WriteString(s)
	}
}

// place writes what was asked of one place.
func (a *answer) place(href string, p *place) {
	if p.Type == kassett.Dir {
		href += "/"
	}
	a.text("<D:response><D:href>" + href + "</D:href><D:propstat><D:prop>")
	has := func(name string) bool { return p.Type == kassett.File || !slices.Contains(ofFiles, name) }
	var lacks []xml.Name
	if asked := a.q.Prop.Names; len(asked) > 0 {
		for _, n := range asked {
			if n.XMLName.Space == "DAV:" && slices.Contains(properties, n.XMLName.Local) && has(n.XMLName.Local) {
				a.property(n.XMLName.Local, p)
			} else {
				lacks = append(lacks, n.XMLName)
			}
		}
	} else {
		for _, name := range properties {
			switch {
			case !has(name):
			case a.q.Names != nil:
				a.text("<D:" + name + "/>")
			default:
				a.property(name, p)
			}
		}
	}
	a.text("</D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>")
	if len(lacks) > 0 {
		a.text("<D:propstat><D:prop>")
		for _, n := range lacks {
			a.text("<" + n.Local + ` xmlns="` + escapeXML(n.Space) + `"/>`)
		}
		a.text("</D:prop><D:status>HTTP/1.1 404 Not Found</D:status></D:propstat>")
	}
	a.text("</D:response>\n")
}

// property writes one property with its value.
func (a *answer) property(name string, p *place) {
	var value string
	switch name {
	case "resourcetype":
		if p.Type == kassett.Dir {
			value = "<D:collection/>"
		}
	case "displayname":
		value = escapeXML(p.Name)
	case "creationdate":
		value = p.ModTime.UTC().Format(time.RFC3339)
	case "getlastmodified":
		value = p.ModTime.UTC().Format(http.TimeFormat)
	case "getcontentlength":
		value = fmt.Sprint(p.Size)
	case "getcontenttype":
		value = escapeXML(contentType(p.Name))
	case "getetag":
		value = escapeXML(p.tag())
	}
	a.text("<D:" + name + ">" + value + "</D:" + name + ">")
}

// escapeXML writes text so that it can stand in XML; what cannot is replaced.
func escapeXML(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes everything
	return b.String()
}
