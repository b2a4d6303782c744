package parity

import "slices"

// equations are the linear equations, one for each recovery slice, by which
// missing input slices are found.
type equations struct {
	f       *field
	missing []uint16 // constants of the missing slices
	rows    []equation
}

// equation is one row of the elimination: left times the missing slices is
// right times the recovery slices, which stand in the order they were added.
type equation struct {
	left, right []uint16
	pivot       int
}

// add takes the equation of a recovery slice, and reports whether it says
// something new. When as many have been taken as slices are missing, the system
// is solved.
func (q *equations) add(exponent uint32) bool {
	n := len(q.missing)
	e := equation{left: make([]uint16, n), right: make([]uint16, n)}
	for i, c := range q.missing {
		e.left[i] = q.f.pow(c, exponent)
	}
	for _, r := range q.rows {
		q.subtract(&e, r)
	}
	if e.pivot = slices.IndexFunc(e.left, func(v uint16) bool { return v != 0 }); e.pivot < 0 {
		return false
	}
	e.right[len(q.rows)] = 1
	scale := q.f.inv(e.left[e.pivot])
	for i := range n {
		e.left[i], e.right[i] = q.f.mul(e.left[i], scale), q.f.mul(e.right[i], scale)
	}
	for i := range q.rows {
		q.subtract(&q.rows[i], e)
	}
	q.rows = append(q.rows, e)
	return true
}

// subtract makes e zero where r has its one.
func (q *equations) subtract(e *equation, r equation) {
	c := e.left[r.pivot]
	if c == 0 {
		return
	}
	for i := range e.left {
		e.left[i] ^= q.f.mul(c, r.left[i])
		e.right[i] ^= q.f.mul(c, r.right[i])
	}
}

func (q *equations) solved() bool { return len(q.rows) == len(q.missing) }

// solution returns, for missing slice i, the coefficients of the recovery
// slices in the order they were added.
func (q *equations) solution(i int) []uint16 {
	for _, r := range q.rows {
		if r.pivot == i {
			return r.right
		}
	}
	return nil
}
