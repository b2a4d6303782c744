// Command kassett backs up the systems of a hospital, proves what it kept and
// gives it back. It is the one binary of the product: this package holds its
// commands, their flags and their words, and wires the packages together by
// hand.
//
// A command is one file with one function that returns a cobra command. What
// it touches of the world comes from [env], so that [run] is the whole program
// as a function. Results go to stdout, talk goes to stderr.
package main

import (
	"context"
	"os"
	"runtime/debug"
)

// gcPercent is how much garbage may gather before it is collected. Most of the
// heap is large buffers without pointers, which cost nothing to look through:
// the usual 100 would only double the memory.
const gcPercent = 25

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ctx, stop := untilSignal(context.Background())
	code := run(ctx, systemEnv())
	stop()
	os.Exit(code)
}
