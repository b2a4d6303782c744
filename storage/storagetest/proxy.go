package storagetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Never as an offset in a [Harm] means that it does not come to that. It is the
// zero value, so an empty Harm does none; [First] stands for the offset 0.
const (
	Never int64 = 0
	First int64 = -1
)

// Harm is what a [Proxy] does to one connection. Up is what the client sends,
// Down what the server sends; each direction has its own count of bytes. After
// n bytes means: n bytes still pass.
type Harm struct {
	Refuse            bool          // close the connection before anything passes
	CutUp, CutDown    int64         // close the connection, both ways, after so many bytes
	HoleUp, HoleDown  int64         // after so many bytes nothing passes any more, and nobody is told
	FlipUp, FlipDown  int64         // turn a bit over in the byte after so many bytes
	Delay             time.Duration // before each piece that passes
	Rate              int64         // bytes a second, each way; 0 for no limit
	PauseUp, PauseFor int64         // after so many bytes up nothing passes for so many milliseconds
}

// Proxy is a TCP proxy on 127.0.0.1 that does harm by rule: it stands between a
// client under test and a real server. Connections are numbered from 1. Close
// it at the end; it leaves no goroutine behind.
type Proxy struct {
	backend string
	in      net.Listener
	ends    context.Context //nolint:containedctx // the life of the proxy, not of a call
	stop    context.CancelFunc
	all     sync.WaitGroup

	mu   sync.Mutex
	rule func(n int) Harm
	n    int
	live map[net.Conn]bool

	up, down atomic.Int64
}

// NewProxy listens on a free port of 127.0.0.1 and passes connections on to
// backend, a host and port. Until [Proxy.Set] it does no harm.
func NewProxy(backend string) (*Proxy, error) {
	ctx, stop := context.WithCancel(context.Background()) //nolint:forbidigo // ends with Close
	in, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		stop()
		return nil, fmt.Errorf("listen for proxy: %w", err)
	}
	p := &Proxy{
		backend: backend, in: in, ends: ctx, stop: stop,
		rule: func(int) Harm { return Harm{} }, live: map[net.Conn]bool{},
	}
	p.all.Go(p.accept)
	return p, nil
}

// Addr returns the host and port to connect to.
func (p *Proxy) Addr() string { return p.in.Addr().String() }

// Set makes rule decide about every connection from now on, by its number.
// Those that are open go on as they began: see [Proxy.Cut].
func (p *Proxy) Set(rule func(n int) Harm) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rule = rule
}

// SetAll does the same harm to every connection from now on.
func (p *Proxy) SetAll(h Harm) { p.Set(func(int) Harm { return h }) }

// Cut closes all connections that are open, both ways.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.live {
		_ = c.Close()
	}
}

// Conns returns how many connections have come so far.
func (p *Proxy) Conns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}

// Bytes returns how much has passed so far, over all connections.
func (p *Proxy) Bytes() (up, down int64) { return p.up.Load(), p.down.Load() }

// Close cuts all connections and waits until everything has ended.
func (p *Proxy) Close() error {
	p.stop()
	err := p.in.Close()
	p.Cut()
	p.all.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		c, err := p.in.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.n++
		h := p.rule(p.n)
		p.mu.Unlock()
		if !p.hold(c) {
			return
		}
		p.all.Go(func() { p.serve(c, h) })
	}
}

// hold remembers an open connection, unless the proxy is at its end.
func (p *Proxy) hold(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ends.Err() != nil {
		_ = c.Close()
		return false
	}
	p.live[c] = true
	return true
}

func (p *Proxy) drop(c net.Conn) {
	_ = c.Close() // the other side may have been first
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.live, c)
}

// errCut ends a connection by rule.
var errCut = errors.New("cut by the proxy")

func (p *Proxy) serve(client net.Conn, h Harm) {
	defer p.drop(client)
	if h.Refuse {
		return
	}
	server, err := new(net.Dialer).DialContext(p.ends, "tcp", p.backend)
	if err != nil || !p.hold(server) {
		return
	}
	defer p.drop(server)
	var both sync.WaitGroup
	pass := func(to, from net.Conn, w way) {
		if err := w.pass(p.ends, to, from); err != nil {
			_, _ = client.Close(), server.Close()
			return
		}
		// One side has said all it had to say; the other may go on.
		if half, ok := to.(*net.TCPConn); ok {
			_ = half.CloseWrite()
		}
	}
	both.Go(func() {
		pass(server, client, way{
			cut: h.CutUp, hole: h.HoleUp, flip: h.FlipUp, delay: h.Delay, rate: h.Rate,
			pause: h.PauseUp, pauseFor: time.Duration(h.PauseFor) * time.Millisecond, total: &p.up,
		})
	})
	both.Go(func() {
		pass(client, server, way{cut: h.CutDown, hole: h.HoleDown, flip: h.FlipDown, delay: h.Delay, rate: h.Rate, total: &p.down})
	})
	both.Wait()
}

// way is one direction of a connection and the harm done there.
type way struct {
	cut, hole, flip int64
	delay           time.Duration
	rate            int64
	pause           int64
	pauseFor        time.Duration
	total           *atomic.Int64
}

// pass copies until the stream ends, which is nil, or is to be cut.
func (w way) pass(ctx context.Context, to io.Writer, from io.Reader) error {
	buf := make([]byte, 16<<10)
	for at := int64(0); ; {
		n, err := from.Read(buf)
		b := buf[:n]
		if w.flip != Never && max(w.flip, 0) >= at && max(w.flip, 0) < at+int64(n) {
			b[max(w.flip, 0)-at] ^= 0x10
		}
		if w.pause != Never && at < max(w.pause, 0) && at+int64(n) >= max(w.pause, 0) {
			if err := wait(ctx, w.pauseFor); err != nil {
				return err
			}
		}
		dead := w.cut != Never && at+int64(n) >= max(w.cut, 0)
		if dead {
			b = b[:max(w.cut, 0)-at]
		}
		if w.hole != Never && at+int64(n) > max(w.hole, 0) {
			b = b[:max(max(w.hole, 0)-at, 0)]
		}
		at += int64(n)
		pause := w.delay
		if w.rate > 0 {
			pause += time.Duration(float64(len(b)) / float64(w.rate) * float64(time.Second))
		}
		if err := wait(ctx, pause); err != nil {
			return err
		}
		if len(b) > 0 {
			if _, err := to.Write(b); err != nil {
				return err
			}
			w.total.Add(int64(len(b)))
		}
		switch {
		case dead:
			return errCut
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// wait waits for d, at the longest until ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// RandomHarm returns a rule that harms about one connection in oneIn, in a way
// that follows from seed and the connection's number alone: refused, cut
// somewhere in the first most bytes of either direction, a bit turned over
// there, slow, or still for a moment. It makes no holes: those end only by the
// client's own time limits, which are long.
func RandomHarm(seed uint64, oneIn int, most int64) func(n int) Harm {
	return func(n int) Harm {
		r := rand.New(rand.NewPCG(seed, uint64(n))) //nolint:gosec // a test that can be repeated
		if r.IntN(max(oneIn, 1)) != 0 {
			return Harm{}
		}
		// Small offsets are as likely as large ones: log-uniform.
		where := func() int64 { return 1 + r.Int64N(1+r.Int64N(max(most, 1))) }
		switch r.IntN(8) {
		case 0:
			return Harm{Refuse: true}
		case 1, 2:
			return Harm{CutUp: where()}
		case 3, 4:
			return Harm{CutDown: where()}
		case 5:
			return Harm{FlipUp: where()}
		case 6:
			return Harm{FlipDown: where()}
		}
		return Harm{Delay: time.Duration(r.IntN(3)) * time.Millisecond, PauseUp: where(), PauseFor: int64(r.IntN(500))}
	}
}
