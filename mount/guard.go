package mount

import (
	"crypto/subtle"
	"net"
	"net/http"
	"strings"
	"time"

	"kassett"
)

// wrongTime is how long an answer to a wrong password takes.
const wrongTime = time.Second

// Guard lets through to h who knows the password, whatever the user's name. With
// an empty password it lets all through who come to this machine by its own name
// for itself: a page of the web that gives out its own host as 127.0.0.1 gets
// nothing to read.
func Guard(h http.Handler, password []byte) http.Handler {
	if len(password) == 0 {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !loopback(r.Host) {
				http.Error(w, "this is for programs on this machine, by the name localhost or 127.0.0.1", http.StatusForbidden)
				return
			}
			h.ServeHTTP(w, r)
		})
	}
	want := kassett.Hash(password)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, given, has := r.BasicAuth()
		have := kassett.Hash([]byte(given))
		if has && subtle.ConstantTimeCompare(want[:], have[:]) == 1 {
			h.ServeHTTP(w, r)
			return
		}
		if has {
			t := time.NewTimer(wrongTime)
			defer t.Stop()
			select {
			case <-t.C:
			case <-r.Context().Done():
			}
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="Kassett", charset="UTF-8"`)
		http.Error(w, "the password is needed", http.StatusUnauthorized)
	})
}

// loopback reports whether the host of a request, with or without a port, is this
// machine's name for itself.
func loopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}
