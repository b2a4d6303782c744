package storage

import "time"

// Quick returns Retries that hardly pause.
func Quick(patience time.Duration) *Retries {
	r := NewRetries(patience, nil)
	r.first = time.Microsecond
	return r
}
