package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"kassett"
	"kassett/cmd/kassett/terminal"
	"kassett/storage"
)

// lineFlags say how the line to a storage is used.
type lineFlags struct {
	upload, download int           // KiB a second; 0 for no limit
	retry            time.Duration // less than 0: not given
}

func (l *lineFlags) register(f *pflag.FlagSet) {
	f.IntVar(&l.upload, "limit-upload", 0, "send no more than `n` KiB a second to a storage")
	f.IntVar(&l.download, "limit-download", 0, "fetch no more than `n` KiB a second from a storage")
	f.DurationVar(&l.retry, "retry-storage", -1, "wait for a storage that cannot be reached up to this `duration`; 12h survives a night, 0 waits for nothing (default: $KASSETT_RETRY_STORAGE or 15m)")
	f.Lookup("retry-storage").DefValue = "0s" // printed by nobody: it is said in words
}

// patience returns how long a storage that cannot be reached is waited for.
func (a *app) patience() (time.Duration, error) {
	if a.flags.line.retry >= 0 {
		return a.flags.line.retry, nil
	}
	text := a.getenv(envPrefix + "RETRY_STORAGE")
	if text == "" {
		return storage.DefaultRetry, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, invalid("read KASSETT_RETRY_STORAGE", terminal.Safe(text), "give a duration such as 30m or 12h", err)
	}
	return d, nil
}

// wrapped opens the storage at a place and puts round it what every storage
// gets: the limits innermost, then the places, then the retries; the
// cache outermost, for storages across a network.
func (a *app) wrapped(ctx context.Context, kind, where string, open func() (kassett.Storage, error)) (st kassett.Storage, err error) {
	patience, err := a.patience()
	if err != nil {
		return nil, err
	}
	l := a.flags.line
	if l.upload < 0 || l.download < 0 {
		return nil, invalid("read limits", fmt.Sprintf("%d and %d KiB/s", l.upload, l.download), "give a number of KiB a second, 0 for no limit", nil)
	}
	out := &outageTalk{a: a, where: withoutSecret(where)}
	retries := storage.NewRetries(patience, out.tell)
	err = retries.Do(ctx, func(bool) (err error) {
		st, err = open()
		return err
	})
	if err != nil {
		return nil, err
	}
	st = storage.Limit(st, storage.Rates{Upload: int64(l.upload) << 10, Download: int64(l.download) << 10})
	if p, ok := kassett.As[kassett.Parallel](st); ok {
		places, err := a.connections(kind, p.Connections())
		if err != nil {
			return nil, err
		}
		st = storage.Bound(st, places)
	}
	st = storage.Retry(st, retries)
	if dir := a.cache(); dir != "" && kind != "local" && !a.straight {
		tagCache(dir)
		st = storage.Cache(st, filepath.Join(dir, "storages", kassett.Hash([]byte(where)).Short()), 0)
	}
	return st, nil
}

// farConnections returns how many calls a storage across a network gets at
// once: the engine then also sends that many packs at once, which takes memory
// and hides the time that each waits for an answer. 0 for a storage that is
// near, for which the engine decides.
func (a *app) farConnections(where string, st kassett.Storage) int {
	kind, _ := splitPlace(where)
	p, ok := kassett.As[kassett.Parallel](st)
	if _, said := a.flags.options[kind+".connections"]; !ok || kind == "local" && !said {
		return 0
	}
	return p.Connections()
}

// How often a storage that cannot be reached is spoken of: not at a first short
// pause, then each minute, and after a while less often, so that a night fills
// no screen.
const (
	outageFirst  = 2 * time.Second
	outageOften  = time.Minute
	outageSeldom = 15 * time.Minute
	outageLong   = 10 * time.Minute // after this it is seldom
)

// outageTalk tells a person why nothing goes on.
type outageTalk struct {
	a     *app
	where string

	mu   sync.Mutex
	said time.Time // zero in an outage of which nothing was said
}

func (o *outageTalk) tell(out storage.Outage) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	lasted := now.Sub(out.Since)
	if out.Next == 0 {
		if !o.said.IsZero() {
			o.a.ui.Say("the storage %s answers again, after %s", terminal.Safe(o.where), lasted.Round(time.Second))
		}
		o.said = time.Time{}
		return
	}
	often := outageOften
	if lasted > outageLong {
		often = outageSeldom
	}
	if lasted+out.Next < outageFirst || !o.said.IsZero() && now.Sub(o.said) < often {
		return
	}
	o.said = now
	o.a.ui.Say("the storage %s cannot be reached since %s: %s", terminal.Safe(o.where), out.Since.Format(time.TimeOnly), terminal.Safe(out.Err.Error()))
	o.a.ui.Say("  next try in %s; given up at %s (--retry-storage)", max(out.Next.Round(time.Second), time.Second), out.Until.Format(time.DateTime))
}
