package sftptest

import "syscall"

// endWithParent makes the server end when the test is killed.
func endWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
