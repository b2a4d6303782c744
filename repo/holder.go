package repo

import "time"

// lockHolder says which process holds a lock, well enough to prove later that
// it does not run any more. restic passes the field over.
type lockHolder struct {
	Machine   string `json:"machine,omitempty"` // a hash of its installation's ID
	Boot      string `json:"boot"`              // ID of this run of its kernel
	Namespace string `json:"namespace"`         // in which its process number and times count
	Started   uint64 `json:"started"`           // when the process began, in clock ticks since the kernel did
}

// holderState is what is known of the process that made a lock.
type holderState uint8

const (
	unsure holderState = iota // may live or not
	living
	dead // proved, whatever the clocks say
)

// fate judges by what the lock says of its holder. me is this process.
//
// On the same run of the same kernel, in the same namespace, a process number
// and a start time name one process for good. After the kernel was started anew
// nothing of before lives; but that it is the same machine is only believed of
// processes that are in no container, since images of containers share the ID
// of their installation.
func (f *lockFile) fate(me *lockHolder) holderState {
	h := f.Holder
	if h == nil || me == nil || f.Hostname == "" || f.Hostname != thisHost() || h.Namespace != me.Namespace {
		return unsure
	}
	if h.Boot == me.Boot {
		return h.look(f.PID)
	}
	if h.Machine != "" && h.Machine == me.Machine && h.outermost() && f.Time.Before(bootTime()) {
		return dead
	}
	return unsure
}

// stale reports whether whoever made the lock is surely gone, or gone by the
// rule of restic. A lock of this host is when its process is, whatever the clock
// says. A lock of another host, or one with our own process number (a
// container's earlier life, most often), is when it was not refreshed for 30
// minutes.
func (f *lockFile) stale(now time.Time, host string, self int) bool {
	if host != "" && f.Hostname == host && f.PID != self {
		return !processAlive(f.PID)
	}
	return now.Round(0).Sub(f.Time) > lockStale
}
