package rest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"kassett"
)

// locksEach is how many locks one client may have in a repository: enough for
// many runs side by side, too few to fill a disk with.
const locksEach = 100

// putLock stores a lock and writes down whose it is. The order makes a crash
// leave a lock of nobody at the worst, which goes when its time has come, and
// never a right to a lock that somebody else will write.
func (q *request) putLock(s *served, body kassett.Body) error {
	id := q.target.handle.ID
	now := q.h.c.Now()
	if s.locksOf(q.client.Name) >= locksEach {
		if err := q.expire(s); err != nil {
			return err
		}
		if s.locksOf(q.client.Name) >= locksEach {
			return q.denied(kassett.Full, fmt.Errorf("this client has %d locks already", locksEach))
		}
	}
	if err := q.store(s, body); err != nil {
		return err
	}
	o := owner{Client: q.client.Name, Received: now.UTC(), seen: now}
	text, err := json.Marshal(&o)
	if err == nil {
		text = append(text, '\n')
		err = s.beside.PutBeside(q.Context(), ownerFolder+"/"+id.String(), kassett.BytesBody(text, kassett.Hash(text)))
	}
	if err != nil && kassett.KindOf(err) != kassett.Exists {
		return errors.Join(err, s.st.Delete(q.Context(), q.target.handle))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owners[id] = o
	return nil
}

func (s *served) locksOf(client string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.owners {
		if o.Client == client {
			n++
		}
	}
	return n
}

// ownerOf returns who made a lock.
func (s *served) ownerOf(id kassett.ID) (owner, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.owners[id]
	return o, ok
}

// removeLock removes a lock of the client's own, or any for who may do all.
func (q *request) removeLock(s *served) error {
	h := q.target.handle
	in, err := s.st.Stat(q.Context(), h)
	if err != nil {
		return err
	}
	o, known := s.ownerOf(h.ID)
	own := known && o.Client == q.client.Name
	switch {
	case own || q.client.Rights.allow(Full):
	case known:
		return q.denied(kassett.Denied, fmt.Errorf("the lock was made by %s", o.Client))
	default:
		return q.denied(kassett.Denied, errors.New("the lock was made by nobody known here"))
	}
	if err := q.dropLock(s, in); err != nil {
		return err
	}
	if own {
		q.w.WriteHeader(http.StatusOK) // as happens every five minutes: not logged
		return nil
	}
	return q.removed(nil)
}

// dropLock removes a lock and what is known of it.
func (q *request) dropLock(s *served, in kassett.Info) error {
	if err := s.st.Delete(q.Context(), in.Handle); err != nil {
		return err
	}
	s.release(in.Size)
	s.mu.Lock()
	_, known := s.owners[in.ID]
	delete(s.owners, in.ID)
	s.mu.Unlock()
	if !known {
		return nil
	}
	err := s.beside.DeleteBeside(q.Context(), ownerFolder+"/"+in.ID.String())
	if kassett.KindOf(err) == kassett.NotFound {
		err = nil
	}
	return err
}

// expire removes the locks that came in longer ago than locks live, by the
// server's clock. What this process saw come in is judged by a clock that
// nobody can set.
func (q *request) expire(s *served) error {
	var old []kassett.Info
	now := q.h.c.Now()
	there := map[kassett.ID]bool{}
	for in, err := range s.st.List(q.Context(), kassett.LockFile) {
		if err != nil {
			return err
		}
		there[in.ID] = true
		o, _ := s.ownerOf(in.ID)
		at := o.Received
		if !o.seen.IsZero() {
			at = o.seen
		} else if at.IsZero() {
			at = in.Received
		}
		if !at.IsZero() && now.Sub(at) > q.h.c.LockLife {
			old = append(old, in)
		}
	}
	for _, in := range old {
		o, _ := s.ownerOf(in.ID)
		if err := q.dropLock(s, in); err != nil && kassett.KindOf(err) != kassett.NotFound {
			return err
		}
		q.h.c.Log.Info("lock expired", "path", s.path, "lock", in.ID.String(), "client", o.Client, "after", q.h.c.LockLife.String())
	}
	return q.forgetOwners(s, there, now)
}

// forgetOwners drops what is known of locks that others have removed from the
// storage.
func (q *request) forgetOwners(s *served, there map[kassett.ID]bool, now time.Time) error {
	var gone []kassett.ID
	s.mu.Lock()
	for id, o := range s.owners {
		if !there[id] && now.Sub(o.Received) > q.h.c.LockLife { // not one that came in meanwhile
			gone = append(gone, id)
			delete(s.owners, id)
		}
	}
	s.mu.Unlock()
	for _, id := range gone {
		err := s.beside.DeleteBeside(q.Context(), ownerFolder+"/"+id.String())
		if err != nil && kassett.KindOf(err) != kassett.NotFound {
			return err
		}
	}
	return nil
}
