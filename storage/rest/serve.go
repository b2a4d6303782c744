package rest

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// ServeOptions bound what strangers can make a server do.
type ServeOptions struct {
	TLS *tls.Config // nil speaks plain HTTP
	Log *slog.Logger
	// Connections is how many there may be at once; 0 means 1,024. One
	// address gets a quarter of them at most.
	Connections int
	// Grace is how long requests under way may go on when ctx has ended; 0
	// means 20 seconds.
	Grace time.Duration
}

const (
	defaultConnections = 1024
	defaultGrace       = 20 * time.Second
	headerTime         = 10 * time.Second // to send the head of a request
	idleTime           = 2 * time.Minute  // between requests, longer than clients keep one
	maxHeader          = 16 << 10         // bytes
)

// Serve answers requests on l with handler until ctx ends, and closes l.
func Serve(ctx context.Context, l net.Listener, handler http.Handler, o ServeOptions) error {
	l = newDoor(l, cmp.Or(o.Connections, defaultConnections))
	if o.TLS != nil {
		o.TLS = o.TLS.Clone()
		o.TLS.NextProtos = []string{"http/1.1"} // one with many streams is slower, and harder to bound
		o.TLS.MinVersion = max(o.TLS.MinVersion, tls.VersionTLS12)
		l = tls.NewListener(l, o.TLS)
	}
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
		ErrorLog:    slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug), // strangers who hang up, mostly
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), cmp.Or(o.Grace, defaultGrace))
	defer cancel()
	err := server.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		o.Log.Warn("requests under way were cut off")
		err = server.Close()
	}
	return errors.Join(err, notClosed(<-ended))
}

// notClosed is err unless that only says that the server was stopped.
func notClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// door lets only so many connections in, and of one address only a part: who
// opens thousands finds them closed, and others get in meanwhile.
type door struct {
	net.Listener
	places chan struct{}
	each   int
	closed chan struct{}
	once   sync.Once

	mu   sync.Mutex
	from map[string]int
}

func newDoor(l net.Listener, connections int) *door {
	return &door{
		Listener: l, places: make(chan struct{}, connections), each: max(1, connections/4),
		closed: make(chan struct{}), from: map[string]int{},
	}
}

// Accept implements [net.Listener].
func (d *door) Accept() (net.Conn, error) {
	select {
	case d.places <- struct{}{}:
	case <-d.closed:
		return nil, net.ErrClosed
	}
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			<-d.places
			return nil, err
		}
		host, _, err := net.SplitHostPort(c.RemoteAddr().String())
		if err != nil {
			host = c.RemoteAddr().String()
		}
		if d.enter(host) {
			return &guest{Conn: c, leave: sync.OnceFunc(func() { d.leave(host) })}, nil
		}
		_ = c.Close() // it was not used
	}
}

func (d *door) enter(host string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.from[host] >= d.each {
		return false
	}
	d.from[host]++
	return true
}

func (d *door) leave(host string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.from[host]--; d.from[host] == 0 {
		delete(d.from, host)
	}
	<-d.places
}

// Close implements [net.Listener].
func (d *door) Close() error {
	d.once.Do(func() { close(d.closed) })
	return d.Listener.Close()
}

// guest is a connection that gives its place back.
type guest struct {
	net.Conn
	leave func()
}

// Close implements [net.Conn].
func (g *guest) Close() error {
	defer g.leave()
	return g.Conn.Close()
}
