package main

import (
	"os"
	"runtime/pprof"
)

// profile writes a profile of the processor's time to the file that
// KASSETT_CPUPROFILE names, from now until stop is called.
func (a *app) profile() (stop func()) {
	name := a.getenv(envPrefix + "CPUPROFILE")
	if name == "" {
		return func() {}
	}
	f, err := os.Create(name)
	if err != nil {
		a.warn("", err)
		return func() {}
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		a.warn(name, err)
	}
	return func() {
		pprof.StopCPUProfile()
		if err := f.Close(); err != nil {
			a.warn(name, err)
		}
	}
}
