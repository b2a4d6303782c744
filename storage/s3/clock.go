package s3

import (
	"net/http"
	"sync/atomic"
	"time"
)

// clock carries requests, and notes from the answers by how much the server's
// clock is ahead of ours.
type clock struct {
	http.RoundTripper
	ahead atomic.Int64 // nanoseconds
	known atomic.Bool
}

func newClock(rt http.RoundTripper) *clock { return &clock{RoundTripper: rt} }

// RoundTrip implements [http.RoundTripper].
func (c *clock) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.RoundTripper.RoundTrip(req)
	if err != nil {
		return resp, err
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		c.ahead.Store(int64(time.Until(date)))
		c.known.Store(true)
	}
	return resp, nil
}

// offset returns by how much the server's clock is ahead of ours, give or take
// a second and the time an answer takes, and whether any answer has said so.
func (c *clock) offset() (time.Duration, bool) {
	return time.Duration(c.ahead.Load()), c.known.Load()
}
