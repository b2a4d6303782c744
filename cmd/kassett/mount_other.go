//go:build !linux

package main

import "context"

// detach does nothing: this system cannot mount.
func detach(context.Context, string) error { return nil }
