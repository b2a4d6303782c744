package sftp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"

	"kassett"
)

// DialFunc starts a session with the server's subsystem sftp: bytes written go
// to the server, bytes read come from it. others is how many sessions are open
// already; only when it is 0 may a person be asked for anything. Close ends the
// session at once, also reads and writes that hang, waits until nothing of it
// is left, and returns why the session had ended before, where that is known.
type DialFunc func(ctx context.Context, others int) (io.ReadWriteCloser, error)

const (
	// grace is how long a request goes on after the context of its caller has
	// ended, before its connection is given up.
	grace = time.Second
	// stall is how long a connection may owe an answer without sending a
	// byte. It is long because a server may be flushing to a slow disk; dead
	// lines are noticed by the keep-alives of SSH much earlier.
	stall = 5 * time.Minute
	// handshake is how long a new session may take to say its version.
	handshake = 2 * time.Minute
	// pardon is how long no further connection is tried where one was refused
	// while others live.
	pardon = time.Minute
)

// pool is the connections of a storage. Calls share them: one that has nothing
// to do is taken first, then a new one is made, up to the limit, then the one
// with the fewest calls is used.
type pool struct {
	dial  DialFunc
	limit int
	turn  chan struct{} // holds a token while somebody dials

	mu     sync.Mutex
	open   []*conn
	enough time.Time // no further connection before this time
	closed bool
}

// conn is one connection.
type conn struct {
	session io.ReadWriteCloser
	client  *sftp.Client
	flight  int // requests that a transfer has on the way
	users   int // guarded by the pool
	ended   chan struct{}
	killed  sync.Once
	reason  error // why it ended; valid after ended is closed
	watch   sync.WaitGroup

	busy  atomic.Int64 // requests that wait for an answer
	heard atomic.Int64 // when bytes last came or waiting began, Unix nanoseconds

	mu      sync.Mutex
	folders map[string]*sftp.File // open for flushing; nil where that cannot be done
}

// take returns a connection for one call. Give it back.
func (p *pool) take(ctx context.Context) (*conn, error) {
	for {
		c, err := p.choose()
		if c != nil || err != nil {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case p.turn <- struct{}{}:
		}
		c, err = p.grow(ctx)
		<-p.turn
		if c != nil || err != nil {
			return c, err
		}
	}
}

// choose returns a connection that is there, or nil when the caller is to dial
// or to wait for the one who does.
func (p *pool) choose() (*conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	p.open = slices.DeleteFunc(p.open, (*conn).dead)
	var best *conn
	for _, c := range p.open {
		if best == nil || c.users < best.users {
			best = c
		}
	}
	more := len(p.open) < p.limit && time.Now().After(p.enough) && len(p.turn) == 0
	if best == nil || best.users > 0 && more {
		return nil, nil
	}
	best.users++
	return best, nil
}

var errClosed = &kassett.Error{Op: "use storage", Kind: kassett.Invalid, Err: errors.New("it is closed")}

// grow dials, unless meanwhile somebody else has made a connection that is
// idle. It returns nil and no error when the caller is to choose again.
func (p *pool) grow(ctx context.Context) (*conn, error) {
	p.mu.Lock()
	others := 0
	for _, c := range p.open {
		if c.dead() {
			continue
		}
		if others++; c.users == 0 {
			c.users++
			p.mu.Unlock()
			return c, nil
		}
	}
	full := others >= p.limit
	p.mu.Unlock()
	if full {
		return nil, nil
	}
	c, err := connect(ctx, p.dial, others)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil && others > 0 && ctx.Err() == nil:
		p.enough = time.Now().Add(pardon) // those that live must do
		return nil, nil
	case err != nil:
		return nil, err
	case p.closed:
		return nil, errors.Join(errClosed, c.close())
	}
	c.users++
	p.open = append(p.open, c)
	return c, nil
}

// give returns a connection.
func (p *pool) give(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.users--
}

// close ends all connections.
func (p *pool) close() {
	p.mu.Lock()
	open := p.open
	p.open, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range open {
		_ = c.close() // why it had ended before interests nobody now
	}
}

// connect dials and says hello.
func connect(ctx context.Context, dial DialFunc, others int) (*conn, error) {
	session, err := dial(ctx, others)
	if err != nil {
		return nil, err
	}
	c := &conn{session: session, ended: make(chan struct{}), folders: map[string]*sftp.File{}, flight: inFlight}
	c.heard.Store(time.Now().UnixNano())
	hello, stop := context.WithTimeout(ctx, handshake)
	defer stop()
	late := context.AfterFunc(hello, func() { _ = session.Close() })
	c.client, err = sftp.NewClientPipe(bufio.NewReaderSize(heardReader{session, &c.heard}, 64<<10), session,
		sftp.UseConcurrentWrites(true), sftp.MaxConcurrentRequestsPerFile(inFlight))
	if !late() || err != nil {
		reason := session.Close()
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case reason != nil:
			return nil, reason
		}
		return nil, offline(fmt.Errorf("the server did not begin to speak SFTP: %w", err))
	}
	if _, ok := c.client.HasExtension("limits@openssh.com"); ok {
		if err := sftp.MaxPacketUnchecked(largePacket)(c.client); err != nil {
			return nil, errors.Join(err, session.Close())
		}
		c.flight = largeInFlight
	}
	c.watch.Go(func() {
		_ = c.client.Wait()
		c.kill()
	})
	c.watch.Go(c.notice)
	return c, nil
}

const (
	// inFlight is how many requests one transfer has on the way: with the 32
	// KiB that every server takes, enough for 50 ms at 40 MB/s.
	inFlight = 64
	// largePacket is what an OpenSSH that knows of limits takes and gives in
	// one request, in bytes: fewer of them cost less on both sides.
	largePacket = 255 << 10
	// largeInFlight is inFlight for large packets.
	largeInFlight = 16
)

// heardReader notes when something last came.
type heardReader struct {
	io.Reader
	at *atomic.Int64
}

func (r heardReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.at.Store(time.Now().UnixNano())
	return n, err
}

// notice gives up a connection that owes an answer for too long.
func (c *conn) notice() {
	tick := time.NewTicker(stall / 10)
	defer tick.Stop()
	for {
		select {
		case <-c.ended:
			return
		case <-tick.C:
			if c.busy.Load() > 0 && time.Since(time.Unix(0, c.heard.Load())) > stall {
				c.kill()
			}
		}
	}
}

// kill ends the session. What waits on it gets an error.
func (c *conn) kill() {
	c.killed.Do(func() {
		c.reason = c.session.Close()
		close(c.ended)
	})
}

func (c *conn) dead() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

func (c *conn) close() error {
	c.kill()
	err := c.client.Close()
	c.watch.Wait()
	return err
}

// do runs one or more requests. When ctx ends and they do not end soon, the
// connection is given up.
func (c *conn) do(ctx context.Context, requests func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.busy.Add(1) == 1 {
		c.heard.Store(time.Now().UnixNano())
	}
	done, ended := make(chan struct{}), make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-done:
		case <-t.C:
			c.kill()
		}
	})
	err := requests()
	c.busy.Add(-1)
	close(done)
	if !stop() {
		<-ended
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return c.explain(err)
}

// explain tells a connection that broke from what the server answered.
func (c *conn) explain(err error) error {
	if _, known := errors.AsType[*kassett.Error](err); known {
		return err
	}
	if _, answered := errors.AsType[*sftp.StatusError](err); answered {
		return err
	}
	lost := errors.Is(err, sftp.ErrSSHFxConnectionLost) || errors.Is(err, io.ErrClosedPipe) ||
		strings.Contains(err.Error(), "failed to send packet") // pkg/sftp has no type for a request that could not be written
	if !lost && (!c.dead() || isAnswer(err)) {
		return err
	}
	c.kill()
	if c.reason != nil {
		return offline(c.reason)
	}
	return offline(errors.New("the connection broke"))
}

// offline is the error of a server that cannot be reached, unless err knows
// better.
func offline(err error) error {
	if _, known := errors.AsType[*kassett.Error](err); known {
		return err
	}
	return &kassett.Error{
		Op: "talk to SFTP server", Kind: kassett.Offline, Err: err,
		Hint: "check that the server is up and the network between: ssh HOST must log in without a question",
	}
}
