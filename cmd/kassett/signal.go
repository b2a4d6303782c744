package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"kassett"
)

// errStopped is the cause of a context that a signal ended.
var errStopped = &kassett.Error{Kind: kassett.Interrupted, Hint: "run the same command again when you are ready"}

// stopped reports whether a person or the system ended ctx, and not, say, the
// loss of a lock.
func stopped(ctx context.Context) bool {
	cause := context.Cause(ctx)
	return cause != nil && kassett.KindOf(cause) == kassett.Interrupted
}

// oneStop is how close two signals are taken for one: a program that starts this
// one may pass on what the terminal sent to both.
const oneStop = 200 * time.Millisecond

// untilSignal returns a context that ends with the first SIGINT, SIGTERM or
// SIGHUP: work stops where it is safe, locks are released. The second signal
// ends the process at once. A hang-up that the caller had ignored (nohup)
// stays ignored.
//
// SIGPIPE is caught and dropped, so that writing to a reader that has gone is
// an error of the write: without that the process would die with its lock held.
func untilSignal(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	stopping := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		stopping = append(stopping, syscall.SIGHUP)
	}
	came := make(chan os.Signal, 2)
	signal.Notify(came, stopping...)
	dropped := make(chan os.Signal, 1)
	signal.Notify(dropped, syscall.SIGPIPE)
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var first time.Time
		for {
			select {
			case <-done:
				return
			case <-came:
			}
			switch {
			case first.IsZero():
				first = time.Now()
				cancel(errStopped)
			case time.Since(first) > oneStop:
				os.Exit(kassett.Interrupted.Exit())
			}
		}
	}()
	return ctx, func() {
		close(done)
		<-ended
		signal.Stop(came)
		signal.Stop(dropped)
		cancel(nil)
	}
}
