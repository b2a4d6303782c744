package s3

import "time"

// SetSingle sets the largest body that is put in one request.
func (s *Storage) SetSingle(n int64) { s.single = n }

// SetPoll sets how long to wait between two looks at what is being thawed.
func (s *Storage) SetPoll(d time.Duration) { s.poll = d }
