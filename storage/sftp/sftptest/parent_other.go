//go:build !linux

package sftptest

import "syscall"

func endWithParent() *syscall.SysProcAttr { return nil }
