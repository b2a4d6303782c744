package rest

import (
	slashpath "path"
	"strings"
	"testing"

	"kassett"
)

const someID = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParsePath(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"/a":                                 "/a/",
		"/a/":                                "/a/",
		"/a/b.c/d-e_f/":                      "/a/b.c/d-e_f/",
		"/a/config":                          "/a/config",
		"/a/b/data/":                         "/a/b/data/",
		"/a/b/data":                          "/a/b/data/",
		"/a/locks/" + someID:                 "/a/locks/" + someID,
		"/a/kassett/":                        "/a/kassett/",
		"/a/kassett":                         "/a/kassett/",
		"/a/kassett/records/":                "/a/kassett/records/",
		"/a/kassett/records/x.1":             "/a/kassett/records/x.1",
		"/a/kassett/data/config":             "/a/kassett/data/config",
		"":                                   "",
		"/":                                  "",
		"//":                                 "",
		"/config":                            "",
		"/data/" + someID:                    "",
		"/a//":                               "",
		"/a/../b/config":                     "",
		"/a/.b/config":                       "",
		"/a/b./config":                       "",
		"/a/config/":                         "",
		"/a/config/config":                   "",
		"/a/data/x":                          "",
		"/a/data/" + someID + "/":            "",
		"/a/data/e3/" + someID:               "",
		"/a/data/" + strings.ToUpper(someID): "",
		"/A/config":                          "",
		"/a%2fb/config":                      "",
		"/a/kassett/../config":               "",
		"/a/kassett//x":                      "",
		"/a/kassett/x-tmp-1":                 "",
		"/a-tmp-1/config":                    "",
		"/a\x00/config":                      "",
		"/" + strings.Repeat("a/", 600):      "",
	} {
		got, err := parsePath(in)
		switch {
		case want == "" && err == nil:
			t.Errorf("%q is taken for %v", in, got)
		case want != "" && (err != nil || got.String() != want):
			t.Errorf("%q is taken for %v, %v; want %q", in, got, err, want)
		}
	}
}

// FuzzParsePath: whatever the path, what comes out is one file of one
// repository, by one spelling, and stays below the server's folder.
func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"/a/config", "/a/b/data/" + someID, "/a/kassett/records/x", "/a/../b/", "/%2e%2e/", "/a/data/..", "//"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got, err := parsePath(in)
		if err != nil {
			return
		}
		if !ValidRepository(got.repository) || slashpath.Clean("/"+got.repository) != "/"+got.repository {
			t.Fatalf("%q: repository %q", in, got.repository)
		}
		if got.what == besideOne && !kassett.ValidBeside(got.beside) || got.what == oneFile && got.handle.Kind == 0 {
			t.Fatalf("%q: %+v", in, got)
		}
		again, err := parsePath(got.String())
		if err != nil || again != got {
			t.Fatalf("%q: %+v, then %+v, %v", in, got, again, err)
		}
		if s := strings.TrimSuffix(got.String(), "/"); s != strings.TrimSuffix(in, "/") && "/"+strings.TrimSuffix(in, "/") != s {
			t.Fatalf("%q has another spelling, %q", in, s)
		}
	})
}

func TestParseRange(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		value  string
		off, n int64
		part   bool
	}{
		{"", 0, 10, false},
		{"bytes=0-4", 0, 5, true},
		{"bytes=3-", 3, 7, true},
		{"bytes=3-100", 3, 7, true},
		{"bytes=9-9", 9, 1, true},
		{"bytes=10-", 0, -1, false},
		{"bytes=9223372036854775807-", 0, -1, false},
		{"bytes=0-9223372036854775807", 0, 10, true},
		{"bytes=0-18446744073709551615", 0, 10, false},
		{"bytes=-3", 0, 10, false},
		{"bytes=5-3", 0, 10, false},
		{"bytes=0-1,3-4", 0, 10, false},
		{"bytes=a-b", 0, 10, false},
		{"lines=0-1", 0, 10, false},
	} {
		if off, n, part := parseRange(c.value, 10); off != c.off || n != c.n || part != c.part {
			t.Errorf("%q: %d, %d, %v", c.value, off, n, part)
		}
	}
}
