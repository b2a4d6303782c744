package main

import (
	"os/exec"
	"syscall"

	"golang.org/x/sys/windows"
)

// separate keeps a program out of reach of the console's Ctrl-C, so that the
// way to the server lives until our work is undone.
func separate(cmd *exec.Cmd, _ bool) (backToFront func()) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP}
	return func() {}
}

// widen leaves pipes as they are.
func widen(any) {}
